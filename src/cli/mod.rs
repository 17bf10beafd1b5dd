//! Words: arguments, log lines, tables, exit codes.
