//! Text for rows: words in sentences, drawn once into a pool that rows then cut their text from.
//!
//! Copying from a pool costs a hundredth of drawing words for every row. Compressors that work on
//! one page, as all of ours do, cannot tell the difference: two cuts of one page seldom overlap.

use super::random::Random;

/// Bytes of text in a pool: many pages' worth, so that cuts of one page seldom overlap.
const POOL_BYTES: usize = 1024 * 1024;

/// Bytes of one cut at most.
pub(super) const CUT_BYTES_MAX: usize = 1024;

/// Text to cut from.
#[derive(Debug)]
pub(super) struct TextPool {
    bytes: Vec<u8>,
}

impl TextPool {
    /// The pool that belongs to `seed`.
    pub(super) fn new(seed: u64) -> TextPool {
        let words: Vec<&str> = WORDS.split_ascii_whitespace().collect();
        let mut random = Random::of_part(seed, 0x7465_7874);
        let mut bytes = Vec::with_capacity(POOL_BYTES + CUT_BYTES_MAX);
        while bytes.len() < POOL_BYTES {
            match random.below(16) {
                0 => bytes.extend_from_slice(random.below(100_000).to_string().as_bytes()),
                1 => bytes.extend_from_slice(format!("{:08x}", random.below(u32::MAX)).as_bytes()),
                _ => {
                    // The lower of two draws: a few words are frequent, most are not, as in any
                    // language.
                    let rank = random.index(words.len()).min(random.index(words.len()));
                    bytes.extend_from_slice(words[rank].as_bytes());
                }
            }
            bytes.extend_from_slice(if random.below(12) == 0 { b", " } else { b" " });
        }
        bytes.truncate(POOL_BYTES);
        TextPool { bytes }
    }

    /// `length` bytes (at most [`CUT_BYTES_MAX`]) from anywhere in the pool.
    #[inline]
    pub(super) fn cut(&self, random: &mut Random, length: usize) -> &[u8] {
        debug_assert!(length <= CUT_BYTES_MAX);
        let start = random.index(POOL_BYTES - CUT_BYTES_MAX);
        &self.bytes[start..start + length]
    }
}

const WORDS: &str = "\
    the of and to in for is on that by with order from account customer payment at as not this \
    be are invoice delivered pending shipped address street city region warehouse return item \
    price total discount approved rejected contract supplier balance credit transfer branch \
    report monthly annual service request support ticket opened closed priority normal urgent \
    north south east west central express standard international domestic package weight \
    volume quantity available reserved cancelled refund warranty expired renewed subscription \
    member silver gold platinum basic premium trial active suspended deleted created updated \
    verified unverified phone mobile email website channel online store agent manager director \
    assistant engineer operator analyst auditor legal finance sales marketing logistics \
    production research quality inspection maintenance equipment machine sensor pump valve \
    motor battery cable panel switch router server storage network cluster backup restore \
    archive replica primary standby recovery checkpoint segment relation index tablespace \
    schema column row value record history January February March April May June July August \
    September October November December Monday Tuesday Wednesday Thursday Friday Saturday \
    Sunday morning afternoon evening night summer winter spring autumn red green blue black \
    white yellow orange purple brown grey small medium large cotton leather steel aluminium \
    plastic glass paper wood ceramic rubber copper silverware furniture kitchen garden office \
    school hospital hotel airport station harbour bridge tunnel highway railway river mountain \
    valley forest island coast lake desert village capital province district county country \
    continent ocean";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printable_and_belongs_to_its_seed() {
        let pool = TextPool::new(5);
        assert_eq!(pool.bytes.len(), POOL_BYTES);
        assert!(pool.bytes.iter().all(|byte| (b' '..=b'~').contains(byte)));
        assert_eq!(pool.bytes, TextPool::new(5).bytes);
        assert_ne!(pool.bytes, TextPool::new(6).bytes);
        assert_eq!(
            pool.cut(&mut Random::of_part(0, 0), CUT_BYTES_MAX).len(),
            CUT_BYTES_MAX
        );
    }
}
