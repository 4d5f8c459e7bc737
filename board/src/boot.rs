//! The boot script: its text, and the image in which U-Boot takes it.
//!
//! The text is two files of `board/boot`, in the language of U-Boot's shell. The image is what
//! `mkimage -T script` makes: a header of 64 bytes with two checksums, the length of the one script
//! in it, and the text. It is made here because the header is twelve fields, and mkimage one more
//! package on every host.

use crate::host::Need;

/// Chooses the slot; the operating system's counterpart is `kairo_slots::loader`.
pub const SELECT: &str = include_str!("../boot/select.cmd");

/// Loads and starts the chosen slot.
pub const START: &str = include_str!("../boot/start.cmd");

/// Name of the script in the boot partition, where U-Boot's `bootflow scan` looks for it.
pub const SCRIPT_FILE: &str = "boot.scr";

/// Bytes of a boot script, at most: `bootflow scan` takes no larger one.
pub const SCRIPT_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a slot's `boot.env`, which the script imports.
pub const ENVIRONMENT_BYTES: usize = 4096;

/// What runs the boot script without hardware.
pub const NEEDS: [Need; 3] = [
    Need {
        program_or_file: "qemu-system-x86_64",
        debian_package: "qemu-system-x86",
        why: "running the boot loader without hardware",
    },
    Need {
        program_or_file: "/usr/lib/u-boot/qemu-x86/u-boot.rom",
        debian_package: "u-boot-qemu",
        why: "the boot loader of virtual machines",
    },
    Need {
        program_or_file: "qemu-system-aarch64",
        debian_package: "qemu-system-arm",
        why: "running the boot script on the other architecture",
    },
];

/// Bytes of the header in front of an image.
const HEADER_BYTES: usize = 64;
/// The first word of every legacy image.
const MAGIC: u32 = 0x2705_1956;
/// Operating system, processor, kind and compression of the image: Linux, ARM, script, none. The
/// script's processor is not looked at.
const KIND: [u8; 4] = [5, 2, 6, 0];
/// Bytes of the name.
const NAME_BYTES: usize = 32;

/// The whole boot script.
#[must_use]
pub fn script() -> Vec<u8> {
    script_image("kairo boot", &format!("{SELECT}\n{START}"))
}

/// A script as U-Boot's `source` takes it. `name` is cut off after 31 bytes.
#[must_use]
pub fn script_image(name: &str, text: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(8 + text.len());
    // A list of the scripts' lengths, ended by a zero.
    data.extend((text.len() as u32).to_be_bytes());
    data.extend(0_u32.to_be_bytes());
    data.extend(text.as_bytes());
    let mut header = header(name, &data, 0);
    let checksum = crc32fast::hash(&header);
    header = self::header(name, &data, checksum);
    [header, data].concat()
}

/// The header, whose own checksum is computed over itself with 0 in its place.
fn header(name: &str, data: &[u8], checksum: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    // No time: the same text is the same image.
    let (time, load, entry) = (0, 0, 0);
    let length = data.len() as u32;
    let words = [
        MAGIC,
        checksum,
        time,
        length,
        load,
        entry,
        crc32fast::hash(data),
    ];
    header.extend(words.into_iter().flat_map(u32::to_be_bytes));
    header.extend(KIND);
    let mut bytes = [0; NAME_BYTES];
    for (place, byte) in bytes[..NAME_BYTES - 1].iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    header.extend(bytes);
    header
}

/// A slot's `boot.env`: the kernel's checksum, and its command lines in slot a and in slot b.
/// `None` if they do not fit.
///
/// U-Boot's `crc32` stores the checksum with its first byte first, and the script compares it as a
/// number of the processor, whose first byte is the last.
#[must_use]
pub fn environment(kernel: &[u8], command_lines: [&str; 2]) -> Option<Vec<u8>> {
    let checksum = crc32fast::hash(kernel).swap_bytes();
    let [a, b] = command_lines;
    let text = format!("ksum={checksum:08x}\0karga={a}\0kargb={b}\0\0");
    // A line feed or a `;` would be the script's, if it ever expanded the value a second time.
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'\\';
    if !a.bytes().chain(b.bytes()).all(is_plain) || text.len() > ENVIRONMENT_BYTES - 4 {
        return None;
    }
    let mut bytes = vec![0; ENVIRONMENT_BYTES];
    bytes[4..4 + text.len()].copy_from_slice(text.as_bytes());
    let checksum = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_slots::area::Place;
    use kairo_slots::record::LOADER_VERSION;

    #[test]
    fn the_image_is_what_mkimage_makes() {
        // `printf 'echo hello\n' | mkimage -T script -C none -n t` with SOURCE_DATE_EPOCH=0: the
        // fields at their places, and the checksums of an independent implementation (zlib).
        let image = script_image("t", "echo hello\n");
        assert_eq!(image.len(), HEADER_BYTES + 8 + 11);
        assert_eq!(image[..4], [0x27, 0x05, 0x19, 0x56]);
        assert_eq!(image[4..8], HEADER_CHECKSUM.to_be_bytes());
        assert_eq!(image[12..16], 19_u32.to_be_bytes());
        assert_eq!(image[24..28], DATA_CHECKSUM.to_be_bytes());
        assert_eq!(image[28..32], [5, 2, 6, 0]);
        assert_eq!(image[32..34], *b"t\0");
        assert_eq!(image[64..72], [0, 0, 0, 11, 0, 0, 0, 0]);
        assert_eq!(image[72..], *b"echo hello\n");
    }
    const HEADER_CHECKSUM: u32 = 0xd3f1_d041;
    const DATA_CHECKSUM: u32 = 0x3db5_5e6f;

    #[test]
    fn a_long_name_is_cut_off() {
        let image = script_image(&"n".repeat(40), "");
        assert_eq!(image[32 + 30..64], [b'n', 0]);
    }

    #[test]
    fn the_script_has_the_sectors_of_the_state_area_and_no_others() {
        let token = |index: usize| format!("0x30{}8", index + 1);
        let mut expected: Vec<String> = Vec::new();
        for place in Place::ALL {
            let index = Place::ATTEMPTS.into_iter().position(|token| token == place);
            expected.push(match index {
                Some(index) => {
                    assert_eq!(format!("{:#x}", place.lba()), token(index));
                    "0x30${i}8".to_owned()
                }
                None => format!("{:#x}", place.lba()),
            });
        }
        for word in [" read ${ka} ", " write ${ka} "] {
            for (_, behind) in SELECT.lines().filter_map(|line| line.split_once(word)) {
                let sector = behind.split_once(' ').unwrap().0;
                assert!(expected.iter().any(|place| place == sector), "{sector}");
            }
        }
        for sector in expected {
            assert!(
                SELECT.contains(&format!(" read ${{ka}} {sector} 1")),
                "{sector}"
            );
        }
        assert!(SELECT.contains(&format!("setenv kver {LOADER_VERSION}\n")));
    }

    #[test]
    fn the_script_writes_tokens_and_the_canary_only() {
        let writes: Vec<&str> = SELECT
            .lines()
            .filter_map(|line| line.split_once("${devtype} write ${ka} "))
            .map(|(_, behind)| behind.split_once(' ').unwrap().0)
            .collect();
        assert_eq!(writes, ["0x30${i}8", "0x3020"]);
        assert!(!START.contains("write"));
        assert_eq!(START.lines().last(), Some("reset"));
        assert!(script().len() <= SCRIPT_BYTES_MAX);
    }

    #[test]
    fn an_environment_holds_the_kernels_checksum_as_the_script_compares_it() {
        let bytes = environment(b"kernel", ["dm-mod.create=\"a,b\"", "b"]).unwrap();
        assert_eq!(bytes.len(), ENVIRONMENT_BYTES);
        let text = format!("ksum={:08x}\0", crc32fast::hash(b"kernel").swap_bytes());
        assert!(bytes[4..].starts_with(text.as_bytes()));
        assert!(environment(b"", [&"x".repeat(ENVIRONMENT_BYTES), ""]).is_none());
        assert!(environment(b"", ["", "two\nlines"]).is_none());
    }
}
