//! Why bytes of a volume are not what they should be.

/// What is wrong with a structure of a volume.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DssFormatError {
    /// Its checksum is wrong.
    #[error("the {what} fails its checksum: {stored:08x} is stored, {computed:08x} computed")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// Its first four bytes.
        stored: u32,
        /// What they should be.
        computed: u32,
    },
    /// Nothing was made of the device, or it was wiped.
    #[error("no volume group is on it: its header is not initialised")]
    NotInitialised,
    /// Another layout.
    #[error("its software version is {version}; only version 2 (DSS 6.0.0 and later) is supported")]
    SoftwareVersion {
        /// The version.
        version: u32,
    },
    /// A field has a value that no volume has.
    #[error("the {what} has {field} {value}")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A name that no file of DSS can have.
    #[error("the name of node {id} is not one: \"{name}\"")]
    Name {
        /// The node.
        id: super::BlockId,
        /// The name, escaped.
        name: String,
    },
    /// An entry of a redo batch does not fit its type.
    #[error("entry {number} of the redo batch, of type {kind}, {problem}")]
    Redo {
        /// Counted from 0.
        number: usize,
        /// Its type.
        kind: u32,
        /// What is wrong.
        problem: &'static str,
    },
}

impl DssFormatError {
    /// A field with an impossible value.
    pub(super) fn field(what: &'static str, field: &'static str, value: u64) -> DssFormatError {
        DssFormatError::Field { what, field, value }
    }
}
