//! Write-ahead log: file names, pages, records.
