//! The codes of invitations: what they look like, on paper and over a telephone, and the batch that each belongs to.
//!
//! A code is 80 bits in Crockford's base 32 (capital and small letters are the same, `I` and `L` are read as 1, `O` as 0, there is no
//! `U`), and a check character. Which row of the email queue has which code, `keyring.rs` says.

use std::fmt;

use super::time::UnixTime;

/// The code of an invitation: who types it in is let past the waiting room, once. Its Debug does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(u128);

impl Code {
    /// Bits of a code: with ten million of them out, a million tries a second meet one in some 4,000 years.
    pub const BITS: u32 = 80;

    /// The code of the first bits of a number.
    #[must_use]
    pub const fn from_first_bits(number: u128) -> Self {
        Self(number >> (u128::BITS - Self::BITS))
    }

    /// Its bits, as a number.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// Reads a code as it was typed: hyphens, dots and spaces may stand anywhere.
    ///
    /// # Errors
    /// Why it is none. One wrong character, or two exchanged, never make another code.
    pub fn parse(typed: &str) -> Result<Self, Mistyped> {
        let mut digits = [0; CHARACTERS];
        let mut count = 0;
        for char in typed.chars().filter(|&char| !is_separator(char)) {
            *digits.get_mut(count).ok_or(Mistyped::Length)? = digit_of(char).ok_or(Mistyped::Character)?;
            count += 1;
        }
        if count != CHARACTERS {
            return Err(Mistyped::Length);
        }
        let [digits @ .., check] = digits;
        if check_of(digits) != check {
            return Err(Mistyped::Check);
        }
        Ok(Self(digits.iter().fold(0, |number, &digit| number << DIGIT_BITS | u128::from(digit))))
    }

    fn digits(self) -> [u8; DIGITS] {
        let mut rest = self.0;
        let mut digits = [0; DIGITS];
        for digit in digits.iter_mut().rev() {
            // the mask leaves 5 bits
            *digit = u8::try_from(rest & 0x1f).unwrap_or(0);
            rest >>= DIGIT_BITS;
        }
        digits
    }
}

/// In groups that can be read out: `ABCD-EFGH-JKMN-PQRS-T`.
impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let digits = self.digits();
        for (index, &digit) in digits.iter().chain([&check_of(digits)]).enumerate() {
            if index > 0 && index % GROUP == 0 {
                formatter.write_char('-')?;
            }
            formatter.write_char(char::from(ALPHABET[usize::from(digit)]))?;
        }
        Ok(())
    }
}

/// Whoever holds a code is let in: its text is for who asks for it by name.
impl fmt::Debug for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Code").finish_non_exhaustive()
    }
}

/// Why what was typed is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistyped {
    /// Too short or too long.
    #[error("a code has {CHARACTERS} characters")]
    Length,
    /// A character that is in no code.
    #[error("a code has no such character")]
    Character,
    /// The check character does not fit the others.
    #[error("a character is wrong")]
    Check,
}

/// All that was sent within an hour belongs to one batch, and can be revoked by it: its name is in `invite status`. Staff passes have
/// none, which is 0.
#[must_use]
pub fn batch_of(sent: UnixTime) -> u32 {
    u32::try_from(sent.as_millis() / HOUR_MS + 1).unwrap_or(u32::MAX)
}

/// When a batch begins.
#[must_use]
pub const fn batch_begins(batch: u32) -> UnixTime {
    UnixTime::from_millis(batch.saturating_sub(1) as u64 * HOUR_MS)
}

const HOUR_MS: u64 = 3_600_000;

/// Codes that are none, which a client may try in a minute: a few slips, and the neighbours' behind the same address.
pub const GUESSES_PER_CLIENT: u32 = 10;

/// The same of all clients together. While more come, each client may try one a minute.
pub const GUESSES: u32 = 600;

/// What people put between groups, and what programs make of it.
fn is_separator(char: char) -> bool {
    char.is_whitespace() || matches!(char, '-' | '.' | '_' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

fn digit_of(char: char) -> Option<u8> {
    let char = match char.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        char => char,
    };
    let place = ALPHABET.iter().position(|&other| char::from(other) == char)?;
    u8::try_from(place).ok()
}

/// The sum of the digits as elements of the field of 32, each times another power of x: any one wrong digit changes it, and so do any two
/// that are exchanged.
fn check_of(digits: [u8; DIGITS]) -> u8 {
    digits.iter().rev().fold(0, |sum, &digit| times_x(sum ^ digit))
}

/// Modulo x^5 + x^2 + 1, of which x is a primitive element: its first 31 powers differ.
const fn times_x(element: u8) -> u8 {
    let shifted = element << 1;
    if shifted & 0x20 == 0 { shifted } else { shifted ^ 0x25 }
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const DIGIT_BITS: u32 = 5;
const DIGITS: usize = 16;
/// With the check character.
const CHARACTERS: usize = DIGITS + 1;
const GROUP: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_code() -> impl Strategy<Value = Code> {
        any::<u128>().prop_map(Code::from_first_bits)
    }

    fn characters(code: Code) -> Vec<char> {
        code.to_string().chars().filter(|&char| char != '-').collect()
    }

    proptest! {
        #[test]
        fn a_code_is_read_as_it_is_written_however_it_is_typed(code in any_code()) {
            let text = code.to_string();
            prop_assert_eq!(Code::parse(&text), Ok(code));
            prop_assert_eq!(Code::parse(&text.replace('-', "").to_lowercase()), Ok(code));
            prop_assert_eq!(Code::parse(&format!("  {} ", text.replace('-', " \u{2013} "))), Ok(code));
            prop_assert_eq!(Code::parse(&text.replace('1', "l").replace('0', "o")), Ok(code));
            prop_assert_eq!(Code::parse(&text.replace('1', "I").replace('0', "O")), Ok(code));
        }

        #[test]
        fn one_wrong_character_is_noticed(code in any_code(), at in 0..CHARACTERS, other in 0..32_usize) {
            let mut text = characters(code);
            let other = char::from(ALPHABET[other]);
            let expected = if text[at] == other { Ok(code) } else { Err(Mistyped::Check) };
            text[at] = other;
            prop_assert_eq!(Code::parse(&text.iter().collect::<String>()), expected);
        }

        #[test]
        fn two_exchanged_characters_are_noticed(code in any_code(), a in 0..CHARACTERS, b in 0..CHARACTERS) {
            let mut text = characters(code);
            let expected = if text[a] == text[b] { Ok(code) } else { Err(Mistyped::Check) };
            text.swap(a, b);
            prop_assert_eq!(Code::parse(&text.iter().collect::<String>()), expected);
        }
    }

    /// Codes are in people's mailboxes: what they look like may never change.
    #[test]
    fn the_text_is_fixed() {
        let code = Code::from_first_bits(0x0123_4567_89ab_cdef_0123 << 48);
        assert_eq!(code.to_string(), "04HM-ASW9-NF6Y-Y093-7");
        assert_eq!(Code::from_first_bits(u128::MAX).to_string().len(), 21);
        assert_eq!(Code::from_first_bits(0).to_string(), "0000-0000-0000-0000-0");
    }

    #[test]
    fn what_is_no_code_is_told_why() {
        for (typed, why) in [
            ("", Mistyped::Length),
            ("0000-0000-0000-0000", Mistyped::Length),
            ("0000-0000-0000-0000-00", Mistyped::Length),
            ("0000-0000-0000-000U-0", Mistyped::Character),
            ("0000-0000-0000-000\u{e9}-0", Mistyped::Character),
            ("0000-0000-0000-0000-1", Mistyped::Check),
        ] {
            assert_eq!(Code::parse(typed), Err(why), "{typed}");
        }
    }

    #[test]
    fn a_batch_is_an_hour() {
        let at = |secs| batch_of(UnixTime::from_secs(secs));
        assert_eq!((at(0), at(3599), at(3600)), (1, 1, 2));
        assert_eq!(batch_begins(at(1_800_000_123)), UnixTime::from_secs(1_800_000_000));
    }
}
