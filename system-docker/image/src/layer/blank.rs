//! Tar headers whose numbers are blank. Go's archive/tar, and so Docker, takes them for 0; others refuse them.

use std::io::{self, Read};
use std::ops::Range;

const BLOCK: usize = 512;
const CHECKSUM: Range<usize> = 148..156;
/// Mode, owner, group, length, time, and a device's two numbers, as POSIX has them.
const NUMBERS: [Range<usize>; 7] =
    [100..108, 108..116, 116..124, 124..136, 136..148, 329..337, 337..345];

/// Writes zeros where a number is blank; whether there was any.
pub(crate) fn fill(header: &mut [u8]) -> bool {
    let mut filled = false;
    for field in NUMBERS {
        let Some(field) = header.get_mut(field) else { continue };
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            field.fill(b'0');
            if let Some(last) = field.last_mut() {
                *last = 0;
            }
            filled = true;
        }
    }
    filled
}

/// A tar stream whose headers have no blank numbers. What is no header passes as it is.
pub struct Filled<R> {
    input: R,
    block: Vec<u8>,
    /// How much of the block has been handed out.
    at: usize,
    /// Content before the next header.
    content: u64,
}

impl<R: Read> Filled<R> {
    /// Of the plain stream `input`.
    pub fn new(input: R) -> Self {
        Self { input, block: Vec::new(), at: 0, content: 0 }
    }

    fn next_block(&mut self) -> io::Result<()> {
        self.block.clear();
        self.at = 0;
        self.input.by_ref().take(BLOCK as u64).read_to_end(&mut self.block)?;
        let mut header = tar::Header::new_old();
        if self.block.len() < BLOCK {
            return Ok(());
        }
        header.as_mut_bytes().copy_from_slice(&self.block);
        if !is_header(&header) {
            return Ok(());
        }
        if fill(header.as_mut_bytes()) {
            header.set_cksum();
            self.block.copy_from_slice(header.as_bytes());
        }
        let has_content = !matches!(header.entry_type().as_byte(), b'1'..=b'6');
        let size = header.entry_size().ok().filter(|_| has_content).unwrap_or(0);
        self.content = size.checked_next_multiple_of(BLOCK as u64).unwrap_or(0);
        Ok(())
    }
}

fn is_header(header: &tar::Header) -> bool {
    let bytes = header.as_bytes();
    let sum =
        |(at, byte): (usize, &u8)| u32::from(if CHECKSUM.contains(&at) { b' ' } else { *byte });
    let found: u32 = bytes.iter().enumerate().map(sum).sum();
    bytes[0] != 0 && header.cksum().is_ok_and(|told| told == found)
}

impl<R: Read> Read for Filled<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() && self.content > 0 {
            let most = to.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
            let got = self.input.read(&mut to[..most])?;
            self.content -= got as u64;
            return Ok(got);
        }
        if self.at == self.block.len() {
            self.next_block()?;
        }
        let length = to.len().min(self.block.len() - self.at);
        to[..length].copy_from_slice(&self.block[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_numbers_are_zero_and_content_passes() {
        let mut tar = tar::Builder::new(Vec::new());
        let content = [0x20; 1500];
        let mut header = tar::Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_size(content.len() as u64);
        header.as_mut_bytes()[100..124].fill(0);
        header.set_cksum();
        tar.append(&header, &content[..]).unwrap();
        header.set_path("b").unwrap();
        header.set_size(0);
        header.set_mode(0o600);
        header.set_cksum();
        tar.append(&header, &b""[..]).unwrap();
        let bytes = tar.into_inner().unwrap();
        let mut archive = tar::Archive::new(Filled::new(&bytes[..]));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = Vec::new();
            entry.read_to_end(&mut text).unwrap();
            let header = entry.header();
            found.push((header.mode().unwrap(), header.uid().unwrap(), text.len()));
        }
        assert_eq!(found, [(0, 0, 1500), (0o600, 0, 0)]);
    }
}
