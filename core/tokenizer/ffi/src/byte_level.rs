//! The byte <-> character table of byte-level BPE (GPT-2): printable Latin-1 characters stand
//! for their own byte, the other 68 bytes for U+0100 and up, in order.

/// The character that stands for `byte` in a byte-level vocabulary.
pub fn char_of(byte: u8) -> char {
    if is_printable(byte) {
        return byte as char;
    }
    let rank = (0..byte).filter(|&b| !is_printable(b)).count() as u32;
    char::from_u32(0x100 + rank).expect("U+0100..U+0143 are characters")
}

/// The byte that `c` stands for, if it stands for one.
pub fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|&b| is_printable(b)),
        code @ 0x100..=0x143 => {
            (0..=255u8).filter(|&b| !is_printable(b)).nth(code as usize - 0x100)
        }
        _ => None,
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}
