//! `config.txt`, the firmware's settings.
//!
//! Every key is one of the firmware's documentation
//! (raspberrypi.com/documentation/computers/config_txt.html); [`read`] knows these and no others, so that
//! a misspelt one does not pass for a setting.

use anyhow::{Context, Result, bail, ensure};

/// The EL2 image's name, the firmware's default for 64-bit kernels.
pub const KERNEL: &str = "kernel8.img";
/// The bundle's.
pub const BUNDLE: &str = "redan.cpio";
/// The command line's, the firmware's default.
pub const CMDLINE: &str = "cmdline.txt";
/// TF-A's, if it is to take the place of the firmware's own stub.
pub const ARMSTUB: &str = "bl31.bin";
/// Boards and their device trees, by the filters of config.txt; what stands below overrides what
/// stands above, and `[pi4]` is true on all three.
pub const TREES: [(&str, &str); 3] = [
    ("pi4", "bcm2711-rpi-4-b.dtb"),
    ("pi400", "bcm2711-rpi-400.dtb"),
    ("cm4", "bcm2711-rpi-cm4-io.dtb"),
];
/// 2 MiB: the image must begin at a multiple of that, and older firmware would choose 0x80000.
pub const KERNEL_ADDRESS: u64 = 0x20_0000;
/// Not `followkernel`: what follows the file of an arm64 Image may still be the image's, its bss.
pub const BUNDLE_ADDRESS: u64 = 0x800_0000;

/// The text; with `armstub`, TF-A runs below us and there is PSCI.
#[must_use]
pub fn text(armstub: bool) -> String {
    let mut text = format!(
        "# Redan on a Raspberry Pi 4, 400 or Compute Module 4: docs/boards/rpi4.md\n\
         arm_64bit=1\n\
         kernel={KERNEL}\n\
         kernel_address={KERNEL_ADDRESS:#x}\n\
         initramfs {BUNDLE} {BUNDLE_ADDRESS:#x}\n\
         # The serial console on the header's pins 8 and 10; fixes the clock it counts by.\n\
         enable_uart=1\n\
         # The interrupt controller that has virtual interrupts.\n\
         enable_gic=1\n"
    );
    if armstub {
        text.push_str("# TF-A starts and stops processors (PSCI).\narmstub=");
        text.push_str(ARMSTUB);
        text.push('\n');
    }
    for (filter, tree) in TREES {
        text.push_str(&format!("[{filter}]\ndevice_tree={tree}\n"));
    }
    text.push_str("[all]\n");
    text
}

/// What a Raspberry Pi 4 Model B reads from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `kernel` and `kernel_address`.
    pub kernel: (String, u64),
    /// `initramfs` and its address.
    pub initramfs: Option<(String, u64)>,
    /// `device_tree`.
    pub device_tree: String,
    /// `armstub`.
    pub armstub: Option<String>,
}

/// Reads the text as the firmware of a Model B does.
pub fn read(text: &str) -> Result<Config> {
    let mut config = Config::default();
    let mut applies = true;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(filter) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            applies = match filter {
                "all" | "pi4" => true,
                "pi400" | "cm4" => false,
                _ => bail!("unknown filter [{filter}]"),
            };
        } else if applies {
            setting(&mut config, line).with_context(|| format!("`{line}`"))?;
        }
    }
    ensure!(
        !config.kernel.0.is_empty() && !config.device_tree.is_empty(),
        "kernel or tree missing"
    );
    Ok(config)
}

fn setting(config: &mut Config, line: &str) -> Result<()> {
    // The only key without an equals sign.
    if let Some(words) = line.strip_prefix("initramfs ") {
        let (file, address) = words.split_once(' ').context("needs a file and an address")?;
        config.initramfs = Some((file.to_owned(), number(address)?));
        return Ok(());
    }
    let (key, value) = line.split_once('=').context("is no setting")?;
    match key {
        "kernel" => config.kernel.0 = value.to_owned(),
        "kernel_address" => config.kernel.1 = number(value)?,
        "device_tree" => config.device_tree = value.to_owned(),
        "armstub" => config.armstub = Some(value.to_owned()),
        "arm_64bit" | "enable_uart" | "enable_gic" => ensure!(value == "1", "we want 1"),
        _ => bail!("unknown key"),
    }
    Ok(())
}

fn number(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("0x").context("is no hexadecimal number")?;
    u64::from_str_radix(digits, 16).context("is no hexadecimal number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_b_reads_what_was_written() {
        let plain = read(&text(false)).unwrap();
        let expected = Config {
            kernel: ("kernel8.img".into(), 0x20_0000),
            initramfs: Some(("redan.cpio".into(), 0x800_0000)),
            device_tree: "bcm2711-rpi-4-b.dtb".into(),
            armstub: None,
        };
        assert_eq!(plain, expected);
        let stub = read(&text(true)).unwrap();
        assert_eq!(stub, Config { armstub: Some("bl31.bin".into()), ..expected });
    }

    #[test]
    fn a_line_is_no_longer_than_the_firmware_reads() {
        // "Each line is limited to 98 characters", the documentation says.
        assert!(text(true).lines().all(|line| line.len() <= 98));
    }

    #[test]
    fn a_misspelt_key_or_filter_is_told() {
        for bad in ["kernal=x", "[pi5]", "initramfs redan.cpio", "kernel_address=12", "arm_64bit=0"]
        {
            assert!(read(&format!("{}{bad}\n", text(false))).is_err(), "{bad}");
        }
        assert!(read("").is_err());
    }
}
