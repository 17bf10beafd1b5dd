//! The backup catalog: its layout, locks, records and chains.
