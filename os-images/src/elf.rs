//! What an ELF file asks of the dynamic linker: its interpreter and the libraries in its NEEDED entries.
//! Reads 64-bit little-endian files only (see elf(5)); anything else asks for nothing. Never panics.

/// What a file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// Path of the interpreter (`/lib64/ld-linux-x86-64.so.2`).
    pub interpreter: Option<String>,
    /// Names of libraries.
    pub needed: Vec<String>,
}

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// A program header: what this code needs of it.
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

/// What `file` asks for; nothing when it is not an ELF file of the right sort.
#[must_use]
pub fn dynamic(file: &[u8]) -> Dynamic {
    read(file).unwrap_or_default()
}

fn read(file: &[u8]) -> Option<Dynamic> {
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let segments = segments(file)?;
    let mut found = Dynamic::default();
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        found.interpreter = text(file, segment.offset);
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Some(found);
    };
    let tags: Vec<(u64, u64)> = (0..dynamic.size / 16)
        .map_while(|index| {
            let at = dynamic.offset + index * 16;
            Some((number(file, at, 8)?, number(file, at + 8, 8)?))
        })
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let strings = tags.iter().find(|(tag, _)| *tag == DT_STRTAB)?.1;
    let load = segments.iter().find(|segment| {
        segment.kind == PT_LOAD
            && strings.checked_sub(segment.address).is_some_and(|into| into < segment.size)
    })?;
    let strings = strings - load.address + load.offset;
    let names = tags.iter().filter(|(tag, _)| *tag == DT_NEEDED);
    found.needed = names.filter_map(|(_, name)| text(file, strings.checked_add(*name)?)).collect();
    Some(found)
}

fn segments(file: &[u8]) -> Option<Vec<Segment>> {
    let (table, size, count) = (number(file, 32, 8)?, number(file, 54, 2)?, number(file, 56, 2)?);
    (0..count)
        .map(|index| {
            let at = table.checked_add(index * size)?;
            Some(Segment {
                kind: number(file, at, 4)?,
                offset: number(file, at.checked_add(8)?, 8)?,
                address: number(file, at.checked_add(16)?, 8)?,
                size: number(file, at.checked_add(32)?, 8)?,
            })
        })
        .collect()
}

fn number(file: &[u8], at: u64, size: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = file.get(at..at.checked_add(usize::try_from(size).ok()?)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn text(file: &[u8], at: u64) -> Option<String> {
    let rest = file.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_libraries() {
        let found = dynamic(&std::fs::read("/bin/ls").unwrap());
        assert!(found.interpreter.is_some_and(|path| path.contains("ld-linux")));
        assert!(found.needed.iter().any(|name| name == "libc.so.6"), "{:?}", found.needed);
    }

    #[test]
    fn anything_else_asks_for_nothing() {
        let program = std::fs::read("/bin/ls").unwrap();
        for length in (0..2000).step_by(7) {
            let _ = dynamic(&program[..length]);
        }
        assert_eq!(dynamic(b"#!/bin/sh\n"), Dynamic::default());
    }
}
