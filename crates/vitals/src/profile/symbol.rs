//! Names, files and lines for addresses of this process.

use std::collections::HashMap;
use std::ops::Range;

use super::report::Frame;

/// Looks addresses up, each once. Dropping it frees what was read of the debug information.
pub(super) struct Symbols {
    known: HashMap<(u64, bool), Vec<usize>>,
    frames: Vec<Frame>,
    /// Where code is; empty if the system does not tell, and then everything may be code.
    code: Vec<Code>,
    places: HashMap<Frame, usize>,
}

/// One mapping with code in it.
#[derive(Debug, PartialEq, Eq)]
struct Code {
    range: Range<u64>,
    /// Its file; empty for memory without one.
    name: String,
}

// === impl Symbols ===

impl Symbols {
    pub(super) fn new() -> Self {
        Self {
            known: HashMap::new(),
            frames: Vec::new(),
            code: code(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default()),
            places: HashMap::new(),
        }
    }

    /// Whether code lies at `address`. Where a function keeps something else in the frame register, a walk along it
    /// brings words that are no addresses.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.code.is_empty() || self.code.iter().any(|code| code.range.contains(&address))
    }

    /// Places in [`Symbols::finish`]'s list, innermost first: an address inside inlined functions has several.
    pub(super) fn resolve(&mut self, address: u64, is_innermost: bool) -> &[usize] {
        let key = (address, is_innermost);
        if !self.known.contains_key(&key) {
            let places = self.look_up(address, is_innermost);
            self.known.insert(key, places);
        }
        &self.known[&key]
    }

    pub(super) fn finish(mut self) -> Vec<Frame> {
        std::mem::take(&mut self.frames)
    }

    fn look_up(&mut self, address: u64, is_innermost: bool) -> Vec<usize> {
        let mut found = Vec::new();
        // The library takes every address for a return address, which lies behind its call; the innermost one does not.
        let asked = if is_innermost {
            address.wrapping_add(1)
        } else {
            address
        };
        backtrace::resolve(asked as *mut _, |symbol| {
            let function = symbol
                .name()
                .map_or_else(|| self.nameless(address), |name| plain(&format!("{name:#}")));
            found.push(Frame {
                function,
                file: symbol
                    .filename()
                    .map(|file| file.display().to_string())
                    .unwrap_or_default(),
                line: symbol.lineno().unwrap_or(0),
                inlined: true,
            });
        });
        if found.is_empty() {
            found.push(Frame {
                function: self.nameless(address),
                file: String::new(),
                line: 0,
                inlined: true,
            });
        }
        // The outermost of them is the function that has the address.
        if let Some(outermost) = found.last_mut() {
            outermost.inlined = false;
        }
        found.into_iter().map(|frame| self.place(frame)).collect()
    }

    /// The file that an address without a name is in, such as `[vdso]`, where the kernel keeps the clock.
    fn nameless(&self, address: u64) -> String {
        let code = self.code.iter().find(|code| code.range.contains(&address));
        match code.map(|code| code.name.as_str()) {
            None | Some("") => format!("{address:#x}"),
            Some(name) => plain(name),
        }
    }

    fn place(&mut self, frame: Frame) -> usize {
        *self.places.entry(frame).or_insert_with_key(|frame| {
            self.frames.push(frame.clone());
            self.frames.len() - 1
        })
    }
}

impl Drop for Symbols {
    fn drop(&mut self) {
        backtrace::clear_symbol_cache();
    }
}

/// The executable ranges of `/proc/self/maps`, proc(5): `start-end perms offset device inode name`.
fn code(maps: &str) -> Vec<Code> {
    let code = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let is_code = fields.next()?.as_bytes().get(2) == Some(&b'x');
        let number = |text| u64::from_str_radix(text, 16).ok();
        let code = Code {
            range: number(start)?..number(end)?,
            name: fields.nth(3).unwrap_or_default().to_owned(),
        };
        is_code.then_some(code)
    };
    maps.lines().filter_map(code).collect()
}

/// Separators of the folded format and line ends have no place in a name.
fn plain(name: &str) -> String {
    name.replace(['\n', '\r'], " ").replace(';', ",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_where_pages_are_executable() {
        let maps = "1000-2000 r-xp 00000000 08:01 7 /bin/x\n2000-3000 rw-p 0 0:0 0\nnonsense\nff000-ff800 --xp 0 0:0 0\n";
        let found = code(maps);
        let found: Vec<_> = found
            .iter()
            .map(|code| (code.range.clone(), code.name.as_str()))
            .collect();
        assert_eq!(found, [(0x1000..0x2000, "/bin/x"), (0xff000..0xff800, "")]);
    }
}
