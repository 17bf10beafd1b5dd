//! "Did you mean": the known word that is closest to one that nobody knows.

/// A hint that names the closest of `known`, each written after `prefix`; `None` where nothing is
/// close enough to be meant.
pub(super) fn hint<'a>(
    prefix: &str,
    word: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<String> {
    // Words longer than any known one are not looked at.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let allowed = (word.len() / 3).clamp(1, 3);
    known
        .map(|known| (distance(&word, known), known))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| format!("did you mean {prefix}{known}?"))
}

/// How many characters have to be inserted, removed, replaced or exchanged with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_is_meant_and_nothing_where_none_is_close() {
        let known = ["backup", "restore", "validate", "show", "show-config"];
        let of = |word| hint("", word, known.into_iter());
        for (word, meant) in [
            ("bakcup", "backup"),
            ("Restor", "restore"),
            ("valdiate", "validate"),
            ("shwo", "show"),
            ("show-confg", "show-config"),
        ] {
            assert_eq!(of(word), Some(format!("did you mean {meant}?")), "{word}");
        }
        for word in ["frobnicate", "", "x", &"y".repeat(1000)] {
            assert_eq!(of(word), None, "{word}");
        }
    }
}
