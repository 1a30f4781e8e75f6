//! Inputs that are nearly right: seeds with bytes changed, taken out, put in, doubled, and cut together.

use tidegate::models::random::Random;

/// Makes inputs of seeds. The same number makes the same inputs.
pub(crate) struct Mutator {
    seeds: Vec<Vec<u8>>,
    random: Random,
}

impl Mutator {
    /// `number`: which stream of inputs.
    pub(crate) fn new(seeds: Vec<Vec<u8>>, number: u64) -> Self {
        Self { seeds, random: Random::seeded(number) }
    }

    /// The next input.
    pub(crate) fn input(&mut self) -> Vec<u8> {
        let mut bytes = self.seed();
        // most often one change, which leaves the rest to be understood
        while {
            self.change(&mut bytes);
            self.random.below(2) == 0
        } {}
        bytes
    }

    fn seed(&mut self) -> Vec<u8> {
        let place = self.below(self.seeds.len());
        self.seeds.get(place).cloned().unwrap_or_default()
    }

    /// Where a piece could be: mostly a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let most = if self.random.below(4) == 0 { length } else { 8 };
        from..(from + self.below(most + 1)).min(length)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        match self.random.below(9) {
            0 if length > 0 => {
                let at = self.below(length);
                bytes[at] ^= 1 << self.below(8);
            }
            1 if length > 0 => {
                let at = self.below(length);
                bytes[at] = self.byte();
            }
            2 => {
                let range = self.range(length);
                bytes.drain(range);
            }
            3 => {
                let range = self.range(length);
                let (at, piece) = (self.below(length + 1), bytes[range].to_vec());
                bytes.splice(at..at, piece);
            }
            4 => {
                let (at, other) = (self.below(length + 1), self.seed());
                let range = self.range(other.len());
                bytes.splice(at..at, other[range].iter().copied());
            }
            5 => {
                let other = self.seed();
                bytes.truncate(self.below(length + 1));
                bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
            }
            6 => {
                let (at, count, byte) = (self.below(length + 1), 1 << self.below(13), self.byte());
                let count = if self.random.below(4) == 0 { count } else { 1 };
                bytes.splice(at..at, std::iter::repeat_n(byte, count));
            }
            _ => {
                let range = self.range(length);
                let piece = PIECES[self.below(PIECES.len())];
                let range = if self.random.below(2) == 0 { range } else { range.start..range.start };
                bytes.splice(range, piece.iter().copied());
            }
        }
    }

    fn byte(&mut self) -> u8 {
        self.random.bits().to_le_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).unwrap_or(0)
    }
}

/// What divides, ends or escapes something in one of the languages that are read.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b"\"",
    b"\\",
    b"/",
    b"//",
    b"..",
    b".",
    b"%",
    b"%2e",
    b"%2F",
    b"%25",
    b"-",
    b"_",
    b"@",
    b"[",
    b"]",
    b"{",
    b"}",
    b"#",
    b"&",
    b"*",
    b"?",
    b"|",
    b">",
    b"'",
    b"\r\n\r\n",
    b"\r\n ",
    b"0",
    b"1",
    b"-1",
    b"65536",
    b"4294967296",
    b"18446744073709551616",
    b"1e9",
    b".5",
    b"\xff",
    b"\xc3\xa9",
    b"\xc0\xae",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\x7f",
    b"\x0b",
    b"a",
    b"Z",
];
