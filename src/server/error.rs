//! Why a server cannot be talked to.

/// Why a conversation with a server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server refused a statement.
    #[error("query failed: {severity}:  {message} query was: {statement}")]
    Statement {
        /// What was asked.
        statement: String,
        /// ERROR, FATAL or PANIC.
        severity: String,
        /// SQLSTATE.
        code: String,
        /// The server's words.
        message: String,
        /// Its hint, if any.
        hint: Option<String>,
    },
    /// The run was cancelled by a signal.
    #[error("interrupted")]
    Interrupted,
}
