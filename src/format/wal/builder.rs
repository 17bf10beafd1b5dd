//! Builds WAL for tests.
