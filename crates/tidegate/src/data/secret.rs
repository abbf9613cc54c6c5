//! What is made once and kept beside the data: the key that signs cursors, the name of this node.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

const FILE: &str = "cursor.key";
const NODE_FILE: &str = "node";

/// The key that a secret of any length stands for.
pub(super) fn derived(secret: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of every length");
    mac.update(b"tidegate cursors 1");
    mac.finalize().into_bytes().into()
}

/// The key kept in `folder`, made if there is none. Two processes that start at once agree on one.
///
/// # Errors
/// The folder or the file cannot be used, or the file is no key.
pub(super) fn kept(folder: &Path) -> io::Result<[u8; 32]> {
    kept_in(folder, FILE)
}

/// The name of this node, kept in `folder`, made if there is none.
///
/// # Errors
/// As [`kept`].
pub(super) fn node(folder: &Path) -> io::Result<String> {
    let bytes: [u8; 16] = kept_in(folder, NODE_FILE)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn kept_in<const N: usize>(folder: &Path, name: &str) -> io::Result<[u8; N]> {
    fs::create_dir_all(folder)?;
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(bytes) => <[u8; N]>::try_from(bytes).map_err(|bytes| {
            io::Error::other(format!(
                "{} has {} bytes, it should have {N}",
                path.display(),
                bytes.len()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(folder, name),
        Err(error) => Err(error),
    }
}

fn make<const N: usize>(folder: &Path, name: &str) -> io::Result<[u8; N]> {
    let path = folder.join(name);
    let mut key = [0; N];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let fresh = folder.join(format!("{name}.{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&key)?;
    file.sync_all()?;
    // A link fails where a rename would replace: whoever comes second takes the first one's key.
    let linked = fs::hard_link(&fresh, &path);
    fs::remove_file(&fresh)?;
    match linked {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => kept_in(folder, name),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once() {
        let folder = std::env::temp_dir().join(format!("tidegate-key-{}", std::process::id()));
        let key = kept(&folder).unwrap();
        assert_eq!(kept(&folder).unwrap(), key);
        assert_ne!(key, [0; 32]);
        let name = node(&folder).unwrap();
        assert_eq!((node(&folder).unwrap(), name.len()), (name, 32));
        fs::write(folder.join(FILE), b"short").unwrap();
        assert!(kept(&folder).unwrap_err().to_string().contains("5 bytes"));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn secrets_of_any_length_make_different_keys() {
        assert_ne!(derived(b"a"), derived(b"b"));
        assert_eq!(derived(&[7; 100]), derived(&[7; 100]));
    }
}
