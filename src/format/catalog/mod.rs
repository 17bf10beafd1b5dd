//! The files of a backup catalog.
