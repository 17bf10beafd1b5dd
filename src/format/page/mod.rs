//! Data pages: header, layouts, checksum, verdict.
