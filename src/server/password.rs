//! Passwords: kept out of logs and wiped when no longer needed.

use std::fmt;
use zeroize::Zeroizing;

/// A password; its bytes are overwritten when it goes, and it prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes over `text`.
    #[must_use]
    pub fn new(text: String) -> Password {
        Password(Zeroizing::new(text))
    }

    /// The password itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_does_not_print_itself() {
        let password = Password::new("Gauss@123".to_owned());
        assert_eq!(
            format!("{password:?} {:#?}", Some(&password)),
            "*** Some(\n    ***,\n)"
        );
        assert_eq!(password.expose(), "Gauss@123");
    }
}
