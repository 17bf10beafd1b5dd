//! The transfer core: extents through read, verify, pack and write, joined by a bounded buffer pool.
