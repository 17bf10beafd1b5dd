//! Page compression: one page in, one payload out, and back.
