//! Helpers of tests, benches and fuzzing; never part of a release build.

pub mod dss_image;
pub mod large_catalog;
pub mod stand_in;
