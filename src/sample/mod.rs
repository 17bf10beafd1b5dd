//! A generated cluster of genuine page formats, for `demo`, tests and benches.
