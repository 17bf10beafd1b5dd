//! What a person asks for with `-b`.

/// How much of a cluster a backup takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Everything.
    Full,
    /// What changed since the parent backup, as the server tracked it.
    Ptrack,
    /// What changed since the parent backup, as the pages themselves say. In the catalog it is a
    /// PTRACK backup, so that the original reads it.
    Delta,
}

impl Mode {
    /// The mode whose name begins with `text`, in any case.
    #[must_use]
    pub fn from_prefix(text: &str) -> Option<Mode> {
        let text = text.trim_ascii_start().to_ascii_uppercase();
        if text.is_empty() {
            return None;
        }
        let modes = [
            ("FULL", Mode::Full),
            ("PTRACK", Mode::Ptrack),
            ("DELTA", Mode::Delta),
        ];
        let found = modes.into_iter().find(|(name, _)| name.starts_with(&text));
        found.map(|(_, mode)| mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_named_by_the_start_of_its_name() {
        for (text, mode) in [
            ("FULL", Some(Mode::Full)),
            ("f", Some(Mode::Full)),
            ("Ptr", Some(Mode::Ptrack)),
            (" ptrack", Some(Mode::Ptrack)),
            ("delta", Some(Mode::Delta)),
            ("d", Some(Mode::Delta)),
            ("", None),
            (" ", None),
            ("page", None),
            ("fulll", None),
        ] {
            assert_eq!(Mode::from_prefix(text), mode, "{text:?}");
        }
    }
}
