//! What is known of a published file.

use std::path::Path;

use crate::Error;

/// The size and the checksum that a published file must have before a byte of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileSpec {
    /// Its name.
    pub(crate) name: &'static str,
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// MD5 in lower-case hexadecimal.
    pub(crate) md5: String,
}

impl FileSpec {
    /// What is wrong with a file of that size and MD5.
    pub(crate) fn problem(&self, path: &Path, bytes: u64, md5: String) -> Option<Error> {
        let (path, name) = (path.to_owned(), self.name);
        if bytes != self.bytes {
            return Some(Error::ArchiveSize { path, actual: bytes, expected: self.bytes, name });
        }
        let expected = self.md5.clone();
        (md5 != expected).then_some(Error::ArchiveDigest { path, actual: md5, expected, name })
    }
}
