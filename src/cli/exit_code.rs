//! How a run ends: scripts compare with these two.

/// A process's exit code, as the original has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitCode {
    /// Done.
    Success,
    /// Anything else; one line begins with `ERROR:`.
    Failure,
}

impl ExitCode {
    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            ExitCode::Success => 0,
            ExitCode::Failure => 1,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(code.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_original() {
        assert_eq!(ExitCode::Success.number(), 0);
        assert_eq!(ExitCode::Failure.number(), 1);
    }
}
