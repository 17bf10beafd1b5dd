//! The fields of a content line: strings in quotes, without any escapes.

use super::content_entry::{ContentListError, HeaderMapRef, INT_MAX};
use crate::types::RELSEG_SIZE;
use std::borrow::Cow;

// Every field that an entry can have; the first index of `Fields::values`.
const FIELDS: [&str; 20] = [
    "path",
    "size",
    "mode",
    "is_datafile",
    "is_cfs",
    "crc",
    "compress_alg",
    "external_dir_num",
    "dbOid",
    "file_type",
    "segno",
    "compressedFile",
    "compressedChunkSize",
    "compressedAlgorithm",
    "linked",
    "n_blocks",
    "n_headers",
    "hdr_crc",
    "hdr_off",
    "hdr_size",
];

pub(super) struct Fields<'a> {
    line: u64,
    values: [Option<&'a str>; FIELDS.len()],
}

impl<'a> Fields<'a> {
    pub(super) fn parse(bytes: &'a [u8], line: u64) -> Result<Fields<'a>, ContentListError> {
        let malformed = |reason| ContentListError::Malformed { line, reason };
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8"))?;
        let mut rest = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .ok_or_else(|| malformed("it is not in braces"))?;
        let mut values = [None; FIELDS.len()];
        // A lap a field of one known line: where the original put the last field, the next one is
        // likely to follow.
        let mut next = 0;
        loop {
            let (key, after) = string(rest).ok_or_else(|| malformed("a name is not in quotes"))?;
            let after = after
                .trim_start_matches(' ')
                .strip_prefix(':')
                .ok_or_else(|| malformed("a name has no value"))?;
            let (value, after) =
                string(after).ok_or_else(|| malformed("a value is not in quotes"))?;
            let at = if FIELDS.get(next) == Some(&key) {
                Some(next)
            } else {
                FIELDS.iter().position(|field| *field == key)
            };
            if let Some(at) = at {
                if values[at].replace(value).is_some() {
                    return Err(malformed("a field is there twice"));
                }
                next = at + 1;
            }
            let after = after.trim_start_matches(' ');
            if after.is_empty() {
                return Ok(Fields { line, values });
            }
            rest = after
                .strip_prefix(',')
                .ok_or_else(|| malformed("fields are not separated by commas"))?;
        }
    }

    fn get(&self, field: &'static str) -> Option<&'a str> {
        FIELDS
            .iter()
            .position(|known| *known == field)
            .and_then(|at| self.values[at])
    }

    pub(super) fn out_of_range(&self, field: &'static str) -> ContentListError {
        ContentListError::OutOfRange {
            line: self.line,
            field,
        }
    }

    pub(super) fn required(&self, field: &'static str) -> Result<&'a str, ContentListError> {
        self.get(field).ok_or(ContentListError::Missing {
            line: self.line,
            field,
        })
    }

    // A decimal number up to `max`; 0 for an optional field that is not there. The original reads a
    // leading zero as octal and writes none, so none is accepted.
    pub(super) fn number(&self, field: &'static str, max: u64) -> Result<u64, ContentListError> {
        let optional = matches!(
            field,
            "external_dir_num" | "dbOid" | "segno" | "n_blocks" | "n_headers"
        );
        let text = match self.get(field) {
            None if optional => return Ok(0),
            _ => self.required(field)?,
        };
        let decimal = !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text.len() == 1 || !text.starts_with('0'));
        decimal
            .then(|| text.parse::<u64>().ok())
            .flatten()
            .filter(|number| *number <= max)
            .ok_or_else(|| self.out_of_range(field))
    }

    pub(super) fn small(&self, field: &'static str, max: u32) -> Result<u32, ContentListError> {
        let number = self.number(field, u64::from(max))?;
        u32::try_from(number).map_err(|_| self.out_of_range(field))
    }

    pub(super) fn flag(
        &self,
        field: &'static str,
        required: bool,
    ) -> Result<bool, ContentListError> {
        match self.get(field) {
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            None if !required => Ok(false),
            None => self.required(field).map(|_| false),
            Some(_) => Err(self.out_of_range(field)),
        }
    }

    pub(super) fn linked(&self) -> Result<Option<Cow<'a, str>>, ContentListError> {
        match self.get("linked") {
            None => Ok(None),
            Some(target) if target.is_empty() || target.chars().any(char::is_control) => {
                Err(self.out_of_range("linked"))
            }
            Some(target) => Ok(Some(Cow::Borrowed(target))),
        }
    }

    pub(super) fn headers(&self) -> Result<Option<HeaderMapRef>, ContentListError> {
        let count = self.small("n_headers", RELSEG_SIZE)?;
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(HeaderMapRef {
            count,
            crc: self.small("hdr_crc", u32::MAX)?,
            offset: self.number("hdr_off", i64::MAX.unsigned_abs())?,
            size: self.small("hdr_size", INT_MAX)?,
        }))
    }
}

// The string at the start of `text`, after blanks, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    text.trim_start_matches(' ')
        .strip_prefix('"')?
        .split_once('"')
}
