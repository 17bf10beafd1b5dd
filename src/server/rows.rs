//! The answer to a statement.

/// Rows in text form; `None` is NULL.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, each as long as `columns`.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// The only value of an answer of one row and one column; `None` when it has another shape or
    /// the value is NULL.
    #[must_use]
    pub fn single(&self) -> Option<&str> {
        match self.rows.as_slice() {
            [row] if row.len() == 1 => row[0].as_deref(),
            _ => None,
        }
    }
}
