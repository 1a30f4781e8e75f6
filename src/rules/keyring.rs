//! The keys of a site: signs tickets and passes, verifies them, and makes the keyed numbers that a visitor can neither foresee nor
//! choose (draw, phase, hash of a client, check of a form).
//!
//! A token is `v1.<key id>.<payload>.<mac>`: the key id in 8 lower-case hexadecimal digits, payload and MAC in base64url without
//! padding. The MAC is HMAC-SHA256 over version (1 byte), kind of token (1), site id (16) and payload (as long as the kind says), so no
//! two tokens have the same input, and a token of one kind or site is none of another. There is one text for a token: any changed bit
//! is a refusal.
//!
//! Every unretired key verifies and the newest signs, so a rotation ends nobody's session. Site id, draw and phase come from the
//! site secret (by HMAC under labels), which is never rotated: a draw stays what it was all epoch long.
//!
//! Absent: randomness and files (`store.rs` makes and keeps the secrets), and judgement: a token that verifies may still have expired or been
//! revoked.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use siphasher::sip::SipHasher24;

use super::invites::Code;
use super::time::UnixTime;
use super::token::{NotHexadecimal, Pass, Ticket, VisitorId, hexadecimal};

/// What signs and verifies, prepared once. Every request reads it.
#[derive(Clone)]
pub struct Keyring {
    /// The newest.
    signs: Generation,
    /// The other unretired ones, newest first: the likeliest to be asked for.
    verify: Vec<Generation>,
    site_id: [u8; 16],
    draw: SipHasher24,
    client: SipHasher24,
    form: SipHasher24,
    page: SipHasher24,
    leave: SipHasher24,
    address: AddressHash,
    codes: CodeKey,
    phase: u64,
}

impl Keyring {
    /// The most keys that may verify at a time: a token of an unknown key is compared with all of them.
    pub const KEYS_MAX: usize = 32;

    /// From the secret of the site and its unretired keys, the oldest first: the last signs. Age is the order given and not
    /// the time of creation, which a clock set back would get wrong.
    ///
    /// # Errors
    /// If there is no key, more than [`Self::KEYS_MAX`], or one twice.
    pub fn new(site: &SiteSecret, keys: &[Key]) -> Result<Self, KeyringError> {
        let Some((newest, older)) = keys.split_last() else {
            return Err(KeyringError::Empty);
        };
        if keys.len() > Self::KEYS_MAX {
            return Err(KeyringError::TooMany { count: keys.len() });
        }
        for (index, key) in keys.iter().enumerate() {
            if keys[..index].iter().any(|other| other.id == key.id) {
                return Err(KeyringError::Twice { id: key.id });
            }
        }
        Ok(Self {
            signs: Generation::new(newest),
            verify: older.iter().rev().map(Generation::new).collect(),
            site_id: site.id(),
            draw: sip_hasher(&site.derive(LABEL_DRAW)),
            client: sip_hasher(&site.derive(LABEL_CLIENT)),
            form: sip_hasher(&site.derive(LABEL_FORM)),
            page: sip_hasher(&site.derive(LABEL_PAGE)),
            leave: sip_hasher(&site.derive(LABEL_LEAVE)),
            codes: CodeKey::new(&site.derive(LABEL_CODE)),
            address: AddressHash::new(&site.derive(LABEL_ADDRESS)),
            phase: first_u64(&site.derive(LABEL_PHASE)),
        })
    }

    /// The ticket as a token: 90 characters that need no escaping in a cookie, a header or a URL. Allocates nothing.
    #[must_use]
    pub fn sign_ticket(&self, ticket: &Ticket) -> TokenText {
        self.sign(TokenKind::Ticket, &ticket.encode())
    }

    /// The pass as a token: 106 characters that need no escaping in a cookie, a header or a URL. Allocates nothing.
    #[must_use]
    pub fn sign_pass(&self, pass: &Pass) -> TokenText {
        self.sign(TokenKind::Pass, &pass.encode())
    }

    /// The ticket of this token, which one of our keys has signed for this site. Allocates nothing.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn verify_ticket(&self, token: &[u8]) -> Result<Ticket, Rejected> {
        let mut space = [0; PAYLOAD_SPACE];
        Ticket::decode(self.verify(TokenKind::Ticket, token, &mut space)?).ok_or(Rejected::Malformed)
    }

    /// The pass of this token, which one of our keys has signed for this site. Allocates nothing.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn verify_pass(&self, token: &[u8]) -> Result<Pass, Rejected> {
        let mut space = [0; PAYLOAD_SPACE];
        Pass::decode(self.verify(TokenKind::Pass, token, &mut space)?).ok_or(Rejected::Malformed)
    }

    /// The draw of a ticket in an epoch, uniform over all of `u64`: the same however often it is asked for, and across rotations.
    #[must_use]
    pub fn draw(&self, id: VisitorId, epoch: u64) -> u64 {
        let mut message = [0; 16];
        message[..8].copy_from_slice(&id.0.to_be_bytes());
        message[8..].copy_from_slice(&epoch.to_be_bytes());
        self.draw.hash(&message)
    }

    /// The place of a ticket among those that were issued in the same grain of time, uniform over all of `u64`: the same for as long
    /// as the ticket lives, and across rotations. Nobody can tell it before the ticket is there.
    #[must_use]
    pub fn place(&self, id: VisitorId) -> u64 {
        // no epoch begins there
        self.draw(id, u64::MAX)
    }

    /// Where in an epoch a ticket's own epoch begins, uniform over all of `u64`: two visitors who came together don't come back together.
    ///
    /// The finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014) over the id and a secret. It
    /// is no cryptographic hash and needs to be none: ids are ours and random, and nothing is won by knowing a phase. It runs
    /// for each waiting request, where an HMAC would be two blocks of SHA-256.
    #[must_use]
    pub const fn phase(&self, id: VisitorId) -> u64 {
        let mut mixed = (id.0 ^ self.phase).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The hash by which a client's address prefix may be written down: the same prefix gives the same number, and the number
    /// gives no prefix to who hasn't the site secret.
    #[must_use]
    pub fn client_hash(&self, prefix: &[u8]) -> u64 {
        self.client.hash(prefix)
    }

    /// The proof that a form came with a page of ours that was given to this ticket, by a visitor who asked for `next`: the same for as
    /// long as the ticket lives, and across rotations. Numbers are compared, and not their texts, so how long that takes tells nothing.
    #[must_use]
    pub fn form_check(&self, ticket: VisitorId, next: &str) -> u64 {
        let mut form = self.form;
        // the id has a fixed length, so no other pair makes the same bytes
        form.write(&ticket.0.to_be_bytes());
        form.write(next.as_bytes());
        form.finish()
    }

    /// The proof that a page was asked for by who was invited by this code.
    #[must_use]
    pub fn page_check(&self, code: Code, next: &str) -> u64 {
        let mut page = self.page;
        page.write(&code.bits().to_be_bytes());
        page.write(next.as_bytes());
        page.finish()
    }

    /// The proof that the address of a row is to be deleted by who was written to.
    #[must_use]
    pub fn leave_check(&self, row: VisitorId) -> u64 {
        self.leave.hash(&row.0.to_be_bytes())
    }

    /// Which row of the email queue has which code. It stays what it is across rotations.
    #[must_use]
    pub const fn codes(&self) -> &CodeKey {
        &self.codes
    }

    /// The hash by which the email queue knows an address: nobody can choose addresses that collide.
    #[must_use]
    pub const fn address_hash(&self) -> AddressHash {
        self.address
    }

    /// The key that signs.
    #[must_use]
    pub const fn signing_key(&self) -> KeyId {
        self.signs.id
    }

    /// The keys that verify, the newest first.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.generations().map(|generation| generation.id)
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        std::iter::once(&self.signs).chain(&self.verify)
    }

    fn sign(&self, kind: TokenKind, payload: &[u8]) -> TokenText {
        let mut space = [0; MESSAGE_MAX];
        let mac = self.signs.mac.clone().chain_update(self.message(kind, payload, &mut space)).finalize().into_bytes();
        let mut token = TokenText { bytes: [b'.'; TEXT_MAX], len: kind.text_len() };
        let (head, rest) = token.bytes.split_at_mut(PREFIX.len() + KEY_TEXT_LEN + 1);
        let (payload_text, mac_text) = rest.split_at_mut(base64_len(payload.len()) + 1);
        head[..PREFIX.len()].copy_from_slice(PREFIX.as_bytes());
        head[PREFIX.len()..PREFIX.len() + KEY_TEXT_LEN].copy_from_slice(&self.signs.text);
        // there is room for each
        let _ = URL_SAFE_NO_PAD.encode_slice(payload, payload_text);
        let _ = URL_SAFE_NO_PAD.encode_slice(mac, mac_text);
        token
    }

    /// The payload of a token of the kind wanted, decoded into `space`.
    fn verify<'a>(&self, wanted: TokenKind, token: &[u8], space: &'a mut [u8; PAYLOAD_SPACE]) -> Result<&'a [u8], Rejected> {
        let parts = Parts::split(token)?;
        let Some(generation) = self.generations().find(|generation| generation.text == *parts.key) else {
            return Err(if parts.key.iter().all(is_key_digit) { Rejected::UnknownKey } else { Rejected::Malformed });
        };
        let payload = decode_exactly(parts.payload, space, parts.kind.payload_len())?;
        let mut mac_space = [0; MAC_SPACE];
        let mac = decode_exactly(parts.mac, &mut mac_space, MAC_LEN)?;
        let mut message_space = [0; MESSAGE_MAX];
        let message = self.message(parts.kind, payload, &mut message_space);
        generation.mac.clone().chain_update(message).verify_slice(mac).map_err(|_| Rejected::Forged)?;
        // last, so that only a token of ours is called one of the wrong kind
        if parts.kind == wanted { Ok(payload) } else { Err(Rejected::Kind) }
    }

    /// What the MAC of a token is computed over.
    fn message<'a>(&self, kind: TokenKind, payload: &[u8], space: &'a mut [u8; MESSAGE_MAX]) -> &'a [u8] {
        let end = MESSAGE_HEAD + payload.len();
        space[0] = VERSION;
        space[1] = kind.byte();
        space[2..MESSAGE_HEAD].copy_from_slice(&self.site_id);
        space[MESSAGE_HEAD..end].copy_from_slice(payload);
        &space[..end]
    }
}

/// Makes the codes of invitations, under a secret of the site.
#[derive(Clone)]
pub struct CodeKey(Hmac<Sha256>);

impl CodeKey {
    fn new(secret: &[u8; 32]) -> Self {
        Self(keyed(secret))
    }

    /// The code of a row: HMAC-SHA256 over its id.
    #[must_use]
    pub fn of(&self, row: VisitorId) -> Code {
        let mac: [u8; MAC_LEN] = self.0.clone().chain_update(row.0.to_be_bytes()).finalize().into_bytes().into();
        let (first, _) = mac.split_at(size_of::<u128>());
        Code::from_first_bits(first.iter().fold(0, |number, &byte| number << 8 | u128::from(byte)))
    }
}

impl fmt::Debug for CodeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CodeKey").finish_non_exhaustive()
    }
}

/// Hashes the addresses of the email queue, under a secret of the site.
#[derive(Clone, Copy)]
pub struct AddressHash(siphasher::sip128::SipHasher24);

impl AddressHash {
    fn new(secret: &[u8; 32]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&secret[..16]);
        Self(siphasher::sip128::SipHasher24::new_with_key(&key))
    }

    /// The hash of an address as [`fold`](super::email::fold) writes it. Of ten million addresses two are alike once in 10^24 times.
    #[must_use]
    pub fn of(&self, folded: &str) -> u128 {
        self.0.hash(folded.as_bytes()).as_u128()
    }
}

impl fmt::Debug for AddressHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AddressHash").finish_non_exhaustive()
    }
}

/// Names the keys, shows no secret.
impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verify: Vec<KeyId> = self.verify.iter().map(|generation| generation.id).collect();
        formatter.debug_struct("Keyring").field("signs", &self.signs.id).field("verify", &verify).finish_non_exhaustive()
    }
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    /// It has not the form of a token.
    #[error("not a token")]
    Malformed,
    /// It says that it is of another version.
    #[error("a token of an unknown version")]
    Version,
    /// It names a key that is not on the ring: retired, or of another site.
    #[error("signed with an unknown key")]
    UnknownKey,
    /// Its MAC is wrong: changed, made up, or of another site.
    #[error("the signature is wrong")]
    Forged,
    /// It is one of ours, but a ticket where a pass is wanted, or the other way.
    #[error("a token of the wrong kind")]
    Kind,
}

/// One signing key. Its Debug shows no secret.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    created: UnixTime,
    secret: [u8; 32],
}

impl Key {
    /// A key from 32 random bytes. The id follows from them, so a secret that was copied wrongly has another id than the file says.
    #[must_use]
    pub fn new(created: UnixTime, secret: [u8; 32]) -> Self {
        let mut id = [0; 4];
        id.copy_from_slice(&derive(&secret, LABEL_KEY_ID)[..4]);
        Self { id: KeyId(id), created, secret }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// When it was made.
    #[must_use]
    pub const fn created(&self) -> UnixTime {
        self.created
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("id", &self.id).field("created", &self.created).finish_non_exhaustive()
    }
}

/// The name of a key, written as 8 hexadecimal digits. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for KeyId {
    type Err = NotHexadecimal;

    /// From exactly 8 hexadecimal digits, of either case: an operator may have typed them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [.., a, b, c, d] = hexadecimal(text, 8)?.to_be_bytes();
        Ok(Self([a, b, c, d]))
    }
}

/// What a site is known by and draws with; made once and never rotated. Its Debug shows no secret.
#[derive(Clone)]
pub struct SiteSecret([u8; 32]);

impl SiteSecret {
    /// From 32 random bytes.
    #[must_use]
    pub const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The site id that every MAC covers. Not a secret.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.derive(LABEL_SITE_ID)[..16]);
        id
    }

    fn derive(&self, label: &[u8]) -> [u8; 32] {
        derive(&self.0, label)
    }
}

impl fmt::Debug for SiteSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SiteSecret").finish_non_exhaustive()
    }
}

/// Keys that make no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// None at all.
    #[error("there is no key")]
    Empty,
    /// More than [`Keyring::KEYS_MAX`].
    #[error("{count} keys are above the limit of {}: retire old ones", Keyring::KEYS_MAX)]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// The same key twice.
    #[error("key {id} is there twice")]
    Twice {
        /// Which.
        id: KeyId,
    },
}

/// The text of a token.
#[derive(Clone, Copy)]
pub struct TokenText {
    bytes: [u8; TEXT_MAX],
    len: usize,
}

impl TokenText {
    /// ASCII that needs no escaping.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Display for TokenText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(str::from_utf8(self.as_bytes()).map_err(|_| fmt::Error)?)
    }
}

/// Whoever holds a token is let in: its text is for who asks for it by name.
impl fmt::Debug for TokenText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TokenText").field("len", &self.len).finish_non_exhaustive()
    }
}

/// A key made ready for requests.
#[derive(Clone)]
struct Generation {
    id: KeyId,
    /// The id as it stands in a token.
    text: [u8; KEY_TEXT_LEN],
    mac: Hmac<Sha256>,
}

impl Generation {
    fn new(key: &Key) -> Self {
        let mut text = [0; KEY_TEXT_LEN];
        text.copy_from_slice(key.id.to_string().as_bytes());
        Self { id: key.id, text, mac: keyed(&key.secret) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    Ticket,
    Pass,
}

impl TokenKind {
    /// What stands for it in a MAC's input.
    const fn byte(self) -> u8 {
        match self {
            Self::Ticket => 1,
            Self::Pass => 2,
        }
    }

    const fn payload_len(self) -> usize {
        match self {
            Self::Ticket => Ticket::LEN,
            Self::Pass => Pass::LEN,
        }
    }

    const fn text_len(self) -> usize {
        PREFIX.len() + KEY_TEXT_LEN + 1 + base64_len(self.payload_len()) + 1 + base64_len(MAC_LEN)
    }

    /// The payloads differ in length, so the length of a token tells its kind before anything is decoded.
    const fn of_text_len(len: usize) -> Option<Self> {
        if len == Self::Pass.text_len() {
            Some(Self::Pass)
        } else if len == Self::Ticket.text_len() {
            Some(Self::Ticket)
        } else {
            None
        }
    }
}

/// A token's text, taken apart and not yet believed.
struct Parts<'a> {
    kind: TokenKind,
    key: &'a [u8; KEY_TEXT_LEN],
    payload: &'a [u8],
    mac: &'a [u8],
}

impl<'a> Parts<'a> {
    fn split(token: &'a [u8]) -> Result<Self, Rejected> {
        let Some(rest) = token.strip_prefix(PREFIX.as_bytes()) else {
            return Err(if is_other_version(token) { Rejected::Version } else { Rejected::Malformed });
        };
        let kind = TokenKind::of_text_len(token.len()).ok_or(Rejected::Malformed)?;
        let (key, rest) = rest.split_first_chunk().ok_or(Rejected::Malformed)?;
        let rest = rest.strip_prefix(b".").ok_or(Rejected::Malformed)?;
        let (payload, rest) = rest.split_at_checked(base64_len(kind.payload_len())).ok_or(Rejected::Malformed)?;
        let mac = rest.strip_prefix(b".").ok_or(Rejected::Malformed)?;
        Ok(Self { kind, key, payload, mac })
    }
}

/// `v`, up to three digits, and a dot.
fn is_other_version(token: &[u8]) -> bool {
    let Some(rest) = token.strip_prefix(b"v") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=3).contains(&digits) && rest.get(digits) == Some(&b'.')
}

fn is_key_digit(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Refuses padding and stray last bits too, which would give one token several texts.
fn decode_exactly<'a>(text: &[u8], space: &'a mut [u8], len: usize) -> Result<&'a [u8], Rejected> {
    match URL_SAFE_NO_PAD.decode_slice(text, space) {
        Ok(decoded) if decoded == len => space.get(..len).ok_or(Rejected::Malformed),
        Ok(_) | Err(_) => Err(Rejected::Malformed),
    }
}

fn keyed(secret: &[u8; 32]) -> Hmac<Sha256> {
    // a key is as long as a block of the hash; HMAC itself fills a shorter one up with zeros
    let mut block = [0; 64];
    block[..secret.len()].copy_from_slice(secret);
    Hmac::new(&block.into())
}

fn derive(secret: &[u8; 32], label: &[u8]) -> [u8; 32] {
    keyed(secret).chain_update(label).finalize().into_bytes().into()
}

/// SipHash-2-4 (Aumasson, Bernstein, 2012): a keyed function whose values no one can foresee without the key, at a fifth of what an
/// HMAC of so short a message costs.
fn sip_hasher(secret: &[u8; 32]) -> SipHasher24 {
    let mut key = [0; 16];
    key.copy_from_slice(&secret[..16]);
    SipHasher24::new_with_key(&key)
}

fn first_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Characters of base64 without padding.
const fn base64_len(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// A pass is the longer of the two.
const TEXT_MAX: usize = TokenKind::Pass.text_len();
const PREFIX: &str = "v1.";
const VERSION: u8 = 1;
const KEY_TEXT_LEN: usize = 8;
const MAC_LEN: usize = 32;
const MESSAGE_HEAD: usize = 18;
const MESSAGE_MAX: usize = MESSAGE_HEAD + Pass::LEN;
/// A payload, rounded up to whole groups of base64.
const PAYLOAD_SPACE: usize = Pass::LEN.next_multiple_of(3);
const MAC_SPACE: usize = MAC_LEN.next_multiple_of(3);

// what a secret is used for; none begins with a version byte, so none is ever the input of a token's MAC
const LABEL_KEY_ID: &[u8] = b"tidegate key id";
const LABEL_SITE_ID: &[u8] = b"tidegate site id";
const LABEL_DRAW: &[u8] = b"tidegate draw";
const LABEL_CLIENT: &[u8] = b"tidegate client";
const LABEL_FORM: &[u8] = b"tidegate form";
const LABEL_PAGE: &[u8] = b"tidegate invitation page";
const LABEL_LEAVE: &[u8] = b"tidegate invitation leave";
const LABEL_CODE: &[u8] = b"tidegate invitation code";
const LABEL_ADDRESS: &[u8] = b"tidegate address";
const LABEL_PHASE: &[u8] = b"tidegate phase";

// a pass must go into one block of SHA-256 with its padding of nine bytes: a second would be work on every request
const _: () = assert!(MESSAGE_MAX <= 55);
// the length must tell the kinds apart
const _: () = assert!(Ticket::LEN.div_ceil(3) != Pass::LEN.div_ceil(3));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::token::PassKind;
    use super::*;

    /// Codes and links are in people's mailboxes: what they are may never change, and a rotation must not change them.
    #[test]
    fn codes_and_proofs_of_invitations_are_fixed() {
        let row = VisitorId(0x0123_4567_89ab_cdef);
        for keys in [ring(1, &[2]), ring(1, &[2, 3])] {
            let code = keys.codes().of(row);
            assert_eq!(code.to_string(), "DTKA-7MEG-NXD1-CJXE-Z");
            assert_eq!((keys.page_check(code, "/apply"), keys.leave_check(row)), (3_536_373_895_070_993_104, 334_583_943_430_258_867));
            assert_ne!(keys.page_check(code, "/apply"), keys.page_check(code, "/"));
            assert_ne!(code, keys.codes().of(VisitorId(1)));
        }
        assert_ne!(ring(9, &[2]).codes().of(row).to_string(), "DTKA-7MEG-NXD1-CJXE-Z");
    }

    fn key(seed: u8) -> Key {
        Key::new(UnixTime::from_secs(u64::from(seed)), [seed; 32])
    }

    fn ring(site: u8, seeds: &[u8]) -> Keyring {
        let keys: Vec<Key> = seeds.iter().copied().map(key).collect();
        Keyring::new(&SiteSecret::new([site; 32]), &keys).unwrap()
    }

    fn ticket() -> Ticket {
        Ticket {
            id: VisitorId(0x1234_5678_9abc_def0),
            issued: UnixTime::from_secs(1_800_000_000),
            seen: UnixTime::from_secs(1_800_000_060),
            won: false,
        }
    }

    fn pass() -> Pass {
        Pass {
            kind: PassKind::Staff,
            id: VisitorId(7),
            issued: UnixTime::from_secs(1_800_000_000),
            renewed: UnixTime::from_secs(1_800_000_060),
            expires: Some(UnixTime::from_secs(1_800_009_999)),
            batch: 3,
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(id in any::<u64>(), issued in any::<u64>(), other in any::<u64>(), flag in any::<bool>(), batch in any::<u32>()) {
            let ring = ring(1, &[2, 3]);
            let ticket = Ticket { id: VisitorId(id), issued: UnixTime::from_millis(issued), seen: UnixTime::from_millis(other), won: flag };
            prop_assert_eq!(ring.verify_ticket(ring.sign_ticket(&ticket).to_string().as_bytes()), Ok(ticket));
            let pass = Pass {
                kind: if flag { PassKind::Admitted } else { PassKind::Invited },
                id: VisitorId(id),
                issued: UnixTime::from_millis(issued),
                renewed: UnixTime::from_millis(other),
                expires: flag.then_some(UnixTime::from_millis(other)),
                batch,
            };
            prop_assert_eq!(ring.verify_pass(ring.sign_pass(&pass).to_string().as_bytes()), Ok(pass));
        }

        #[test]
        fn rubbish_is_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let ring = ring(1, &[2]);
            prop_assert!(ring.verify_ticket(&bytes).is_err());
            prop_assert!(ring.verify_pass(&bytes).is_err());
        }

        #[test]
        fn text_in_the_form_of_a_token_is_rejected(token in "v[1-2]\\.[0-9a-f]{8}\\.([A-Za-z0-9_-]{34}|[A-Za-z0-9_-]{50})\\.[A-Za-z0-9_-]{43}") {
            let ring = ring(1, &[2]);
            prop_assert!(ring.verify_ticket(token.as_bytes()).is_err());
            prop_assert!(ring.verify_pass(token.as_bytes()).is_err());
        }
    }

    /// Tokens outlive an upgrade, so this text may never change under `v1`. The figures were computed apart, with Python's `hmac`.
    #[test]
    fn the_text_of_a_token_is_fixed() {
        let ring = ring(1, &[2]);
        assert_eq!(
            ring.sign_ticket(&ticket()).to_string(),
            "v1.935a7c76.ABI0VniavN7wAAABoxhcUAAAAAGjGF06YA.nq7ClJHTgZXSMov3w12KmE6-HjUQqrf7kM6OvV92XBE"
        );
        assert_eq!(
            ring.sign_pass(&pass()).to_string(),
            "v1.935a7c76.gwAAAAAAAAAHAAABoxhcUAAAAAGjGF06YAAAAaMY9OKYAAAAAw.GQrYWTTeUGcDIoAxQocgxVPLTk4EjseoOMafP_RS9kk"
        );
        assert_eq!(ring.draw(VisitorId(7), 42), 0x5291_38c9_4ae8_368d);
        assert_eq!(ring.phase(VisitorId(7)), 0x5620_0cff_2371_c3a0);
        assert_eq!(ring.client_hash(&[192, 0, 2, 1]), 0x8da2_a43c_1134_4f63);
    }

    #[test]
    fn the_length_of_a_token_tells_its_kind() {
        let ring = ring(1, &[2]);
        let (ticket, pass) = (ring.sign_ticket(&ticket()).to_string(), ring.sign_pass(&pass()).to_string());
        assert_eq!((ticket.len(), pass.len()), (90, 106));
    }

    #[test]
    fn the_check_of_a_form_is_of_one_site_one_ticket_and_one_page() {
        let ring = ring(1, &[2]);
        let check = ring.form_check(VisitorId(7), "/apply?step=2");
        assert_eq!(check, self::ring(1, &[2, 3]).form_check(VisitorId(7), "/apply?step=2"), "a rotation ends no form");
        for (other, next) in [
            (ring.form_check(VisitorId(8), "/apply?step=2"), "another ticket"),
            (ring.form_check(VisitorId(7), "/apply?step=3"), "another page"),
            (ring.form_check(VisitorId(7), "/"), "no page"),
            (self::ring(9, &[2]).form_check(VisitorId(7), "/apply?step=2"), "another site"),
        ] {
            assert_ne!(check, other, "{next}");
        }
        assert_ne!(
            ring.form_check(VisitorId(7), "/applied"),
            ring.draw(VisitorId(7), u64::from_be_bytes(*b"/applied")),
            "one key for one use"
        );
    }

    #[test]
    fn every_flipped_bit_is_rejected() {
        let ring = ring(1, &[2, 3]);
        for token in [ring.sign_ticket(&ticket()).to_string(), ring.sign_pass(&pass()).to_string()] {
            for bit in 0..token.len() * 8 {
                let mut bytes = token.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(ring.verify_ticket(&bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
                assert!(ring.verify_pass(&bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn what_is_cut_or_lengthened_is_rejected() {
        let ring = ring(1, &[2]);
        for token in [ring.sign_ticket(&ticket()).to_string(), ring.sign_pass(&pass()).to_string()] {
            for end in 0..token.len() {
                assert!(ring.verify_ticket(&token.as_bytes()[..end]).is_err(), "{end}");
                assert!(ring.verify_pass(&token.as_bytes()[..end]).is_err(), "{end}");
                assert!(ring.verify_pass(&token.as_bytes()[end + 1..]).is_err(), "{end}");
            }
            for more in ["A", "=", ".", " ", "\n"] {
                let longer = format!("{token}{more}");
                assert_eq!(ring.verify_ticket(longer.as_bytes()), Err(Rejected::Malformed));
                assert_eq!(ring.verify_pass(longer.as_bytes()), Err(Rejected::Malformed));
            }
        }
    }

    #[test]
    fn the_wrong_kind_is_told_from_a_forgery() {
        let ring = ring(1, &[2]);
        let (ticket, pass) = (ring.sign_ticket(&ticket()).to_string(), ring.sign_pass(&pass()).to_string());
        assert_eq!(ring.verify_pass(ticket.as_bytes()), Err(Rejected::Kind));
        assert_eq!(ring.verify_ticket(pass.as_bytes()), Err(Rejected::Kind));
        let forged = format!("{}A", &ticket[..ticket.len() - 1]);
        assert_ne!(forged, ticket);
        assert_eq!(ring.verify_pass(forged.as_bytes()), Err(Rejected::Forged));
    }

    #[test]
    fn a_payload_under_another_payloads_mac_is_forged() {
        let ring = ring(1, &[2]);
        let one = ring.sign_ticket(&ticket()).to_string();
        let other = ring.sign_ticket(&Ticket { won: true, ..ticket() }).to_string();
        let mixed = format!("{}{}", &other[..47], &one[47..]);
        assert_eq!(ring.verify_ticket(mixed.as_bytes()), Err(Rejected::Forged));
    }

    #[test]
    fn a_token_of_another_site_is_forged() {
        let token = ring(1, &[2]).sign_pass(&pass()).to_string();
        assert_eq!(ring(9, &[2]).verify_pass(token.as_bytes()), Err(Rejected::Forged));
    }

    #[test]
    fn a_token_of_an_unknown_key_says_so() {
        let token = ring(1, &[2]).sign_pass(&pass()).to_string();
        assert_eq!(ring(1, &[3]).verify_pass(token.as_bytes()), Err(Rejected::UnknownKey));
        let unknown = token.replacen(&key(2).id().to_string(), &key(3).id().to_string(), 1);
        assert_eq!(ring(1, &[2, 3]).verify_pass(unknown.as_bytes()), Err(Rejected::Forged));
        let not_a_key = token.replacen(&key(2).id().to_string(), "0000000G", 1);
        assert_eq!(ring(1, &[2]).verify_pass(not_a_key.as_bytes()), Err(Rejected::Malformed));
    }

    #[test]
    fn another_version_says_so() {
        let ring = ring(1, &[2]);
        let token = ring.sign_pass(&pass()).to_string();
        for (other, reason) in
            [("v2.", Rejected::Version), ("v10.", Rejected::Version), ("v1000.", Rejected::Malformed), ("w1.", Rejected::Malformed)]
        {
            let changed = token.replacen("v1.", other, 1);
            assert_eq!(ring.verify_pass(changed.as_bytes()), Err(reason), "{other}");
        }
        assert_eq!(ring.verify_pass(b"v2.something else altogether"), Err(Rejected::Version));
    }

    #[test]
    fn a_rotation_keeps_every_visitor_and_a_retirement_does_not() {
        let old = ring(1, &[2]).sign_pass(&pass()).to_string();
        let rotated = ring(1, &[2, 3]);
        assert_eq!(rotated.verify_pass(old.as_bytes()), Ok(pass()));
        assert_eq!(rotated.signing_key(), key(3).id());
        assert_eq!(rotated.key_ids().collect::<Vec<_>>(), [key(3).id(), key(2).id()]);
        let new = rotated.sign_pass(&pass()).to_string();
        assert!(new.starts_with(&format!("v1.{}.", key(3).id())));
        let retired = ring(1, &[3]);
        assert_eq!(retired.verify_pass(new.as_bytes()), Ok(pass()));
        assert_eq!(retired.verify_pass(old.as_bytes()), Err(Rejected::UnknownKey));
    }

    #[test]
    fn a_ring_has_some_keys_and_not_too_many_and_none_twice() {
        let site = SiteSecret::new([1; 32]);
        assert_eq!(Keyring::new(&site, &[]).unwrap_err(), KeyringError::Empty);
        assert_eq!(Keyring::new(&site, &[key(1), key(2), key(1)]).unwrap_err(), KeyringError::Twice { id: key(1).id() });
        let many: Vec<Key> = (0..33).map(key).collect();
        assert!(Keyring::new(&site, &many[..32]).is_ok());
        assert_eq!(Keyring::new(&site, &many).unwrap_err(), KeyringError::TooMany { count: 33 });
    }

    #[test]
    fn a_draw_is_stable_across_rotations_and_new_each_epoch_ticket_and_site() {
        let before = ring(1, &[2]);
        let after = ring(1, &[2, 3]);
        assert_eq!(before.draw(VisitorId(5), 9), after.draw(VisitorId(5), 9));
        assert_eq!(before.phase(VisitorId(5)), after.phase(VisitorId(5)));
        assert_eq!(before.client_hash(b"x"), after.client_hash(b"x"));
        assert_ne!(before.draw(VisitorId(5), 9), before.draw(VisitorId(5), 10));
        assert_ne!(before.draw(VisitorId(5), 9), before.draw(VisitorId(6), 9));
        let elsewhere = ring(4, &[2]);
        assert_ne!(before.draw(VisitorId(5), 9), elsewhere.draw(VisitorId(5), 9));
        assert_ne!(before.phase(VisitorId(5)), elsewhere.phase(VisitorId(5)));
        assert_ne!(before.client_hash(b"x"), elsewhere.client_hash(b"x"));
    }

    /// Chi-square over 64 bins, 63 degrees of freedom: 103.4 is passed by chance once in a thousand. The seeds are literal, so a pass
    /// stays a pass.
    fn assert_uniform(what: &str, values: impl Iterator<Item = u64>) {
        let mut bins = [0_u32; 64];
        let mut count = 0_u32;
        for value in values {
            bins[usize::try_from(value >> 58).unwrap()] += 1;
            count += 1;
        }
        let expected = f64::from(count) / 64.0;
        let chi_square: f64 = bins.iter().map(|&bin| (f64::from(bin) - expected).powi(2) / expected).sum();
        assert!(chi_square < 103.4, "{what}: {chi_square}");
    }

    #[test]
    fn draws_and_phases_are_uniform() {
        let ring = ring(1, &[2]);
        assert_uniform("draws of many tickets", (0..16_384).map(|id| ring.draw(VisitorId(id), 170_000_000)));
        assert_uniform("draws of one ticket", (0..16_384).map(|epoch| ring.draw(VisitorId(77), epoch)));
        assert_uniform("places", (0..16_384).map(|id| ring.place(VisitorId(id))));
        assert_uniform("phases", (0..16_384).map(|id| ring.phase(VisitorId(id))));
        assert_uniform("clients", (0..16_384_u32).map(|prefix| ring.client_hash(&prefix.to_be_bytes())));
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret: [u8; 32] = std::array::from_fn(|index| 0xa0 + u8::try_from(index).unwrap());
        let site = SiteSecret::new(secret);
        let key = Key::new(UnixTime::from_secs(5), secret);
        let ring = Keyring::new(&site, std::slice::from_ref(&key)).unwrap();
        for shown in [format!("{key:?}"), format!("{site:?}"), format!("{ring:?}"), format!("{key:#?}"), format!("{ring:#?}")] {
            let lower = shown.to_lowercase();
            for byte in secret {
                assert!(!lower.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == byte.to_string()), "{shown}");
            }
            assert!(
                !lower.contains("a0a1") && !lower.contains("a0, a1") && !shown.contains(&URL_SAFE_NO_PAD.encode(secret)[..8]),
                "{shown}"
            );
        }
        assert!(format!("{ring:?}").contains(&key.id().to_string()));
    }

    #[test]
    fn a_key_id_is_read_as_it_is_written() {
        let id = key(1).id();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert_eq!("1234567".parse::<KeyId>(), Err(NotHexadecimal { digits: 8 }));
    }
}
