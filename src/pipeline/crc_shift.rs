//! CRC-32C as what it is, the remainder of a polynomial: what follows of a part of a file for the
//! CRC of the whole.
//!
//! `crc32c::crc32c_combine` squares matrices, some 50 µs for each call; multiplying by a power of x
//! modulo the polynomial does the same in less than one. The method is zlib's
//! (`crc32_combine_op`), the polynomial Castagnoli's.

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The polynomial 1: in reversed order the highest bit is the coefficient of x⁰.
const ONE: u32 = 1 << 31;

/// `POWERS[n]` is x to the power 2ⁿ.
const POWERS: [u32; 64] = powers();

const fn powers() -> [u32; 64] {
    let mut powers = [ONE >> 1; 64];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = multiply(powers[at - 1], powers[at - 1]);
        at += 1;
    }
    powers
}

/// The product of two polynomials modulo the CRC's.
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut factor, mut bit) = (0, b, ONE);
    while bit != 0 {
        if a & bit != 0 {
            product ^= factor;
        }
        factor = if factor & 1 == 0 {
            factor >> 1
        } else {
            factor >> 1 ^ POLYNOMIAL
        };
        bit >>= 1;
    }
    product
}

/// What a difference between two texts of equal length contributes to the difference of their CRCs,
/// where `bytes` more bytes follow in both.
pub(super) fn shifted(difference: u32, bytes: u64) -> u32 {
    let mut factor = ONE;
    // A byte is x⁸.
    let (mut rest, mut power) = (bytes, 3);
    while rest > 0 {
        if rest & 1 == 1 {
            factor = multiply(factor, POWERS[power]);
        }
        rest >>= 1;
        power += 1;
    }
    multiply(factor, difference)
}

/// The CRC of a text from that of its head and that of the `bytes` bytes behind.
pub(super) fn combined(head: u32, tail: u32, bytes: u64) -> u32 {
    shifted(head, bytes) ^ tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_combine_to_the_crc_of_the_whole() {
        let bytes: Vec<u8> = (0_u32..10_000).flat_map(u32::to_le_bytes).collect();
        for at in [0, 1, 7, 8, 4096, 39_999, 40_000] {
            let (head, tail) = bytes.split_at(at);
            let length = u64::try_from(tail.len()).unwrap();
            let whole = combined(crc32c::crc32c(head), crc32c::crc32c(tail), length);
            assert_eq!(whole, crc32c::crc32c(&bytes), "{at}");
        }
    }

    #[test]
    fn difference_of_a_part_gives_the_difference_of_the_whole() {
        let old = vec![7_u8; 100_000];
        let mut new = old.clone();
        let mut difference = 0;
        for (from, to) in [(0, 1), (500, 8700), (99_990, 100_000)] {
            new[from..to].fill(9);
            let part = crc32c::crc32c(&old[from..to]) ^ crc32c::crc32c(&new[from..to]);
            difference ^= shifted(part, u64::try_from(old.len() - to).unwrap());
        }
        assert_eq!(crc32c::crc32c(&old) ^ difference, crc32c::crc32c(&new));
    }

    #[test]
    fn it_agrees_with_the_crate_for_any_length() {
        for bytes in [1_u64, 255, 65_537, 1 << 31, (1 << 40) + 12_345] {
            let length = usize::try_from(bytes).unwrap();
            let expected = crc32c::crc32c_combine(0xDEAD_BEEF, 0x1234_5678, length);
            assert_eq!(
                combined(0xDEAD_BEEF, 0x1234_5678, bytes),
                expected,
                "{bytes}"
            );
        }
    }
}
