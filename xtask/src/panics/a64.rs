//! As much of the A64 instruction set as a call graph needs: where control goes, and which
//! addresses code forms (DDI0487 C4.1, "A64 instruction set encoding").

/// Where control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// On to the next one.
    Next,
    /// There, or on to the next one: B.cond, CBZ, CBNZ, TBZ, TBNZ.
    Maybe(u64),
    /// There: B.
    Jump(u64),
    /// There, and back if it returns: BL.
    Call(u64),
    /// To what a register holds, and back: BLR.
    CallRegister,
    /// To what this register holds: BR.
    JumpRegister(u8),
    /// Nowhere that this code says: RET, ERET.
    Away,
    /// To an exception that means a bug: BRK, UDF.
    Trap,
}

/// Decodes the control flow of the instruction `word` at address `pc`.
pub fn flow(word: u32, pc: u64) -> Flow {
    if word & 0x7c00_0000 == 0x1400_0000 {
        let to = relative(pc, word, 0, 26);
        return if word >> 31 == 1 { Flow::Call(to) } else { Flow::Jump(to) };
    }
    // B.cond and BC.cond; compare and branch.
    if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        return Flow::Maybe(relative(pc, word, 5, 19));
    }
    // Test and branch.
    if word & 0x7e00_0000 == 0x3600_0000 {
        return Flow::Maybe(relative(pc, word, 5, 14));
    }
    // Branches to a register, with and without pointer authentication.
    if word & 0xfe00_0000 == 0xd600_0000 {
        return match word >> 21 & 7 {
            0 => Flow::JumpRegister(register(word, 5)),
            1 => Flow::CallRegister,
            _ => Flow::Away,
        };
    }
    if word & 0xffe0_001f == 0xd420_0000 || word & 0xffff_0000 == 0 {
        return Flow::Trap;
    }
    Flow::Next
}

/// How an instruction takes part in forming an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forms {
    /// ADRP or ADR: the register now holds this.
    Base(u8, u64),
    /// ADD (immediate, 64 bits): the first register is the second plus this.
    Sum(u8, u8, u64),
    /// ADD (shifted register, 64 bits): what a jump into a table is made of.
    Register(u8),
    /// Nothing that we follow.
    Nothing,
}

/// Decodes the part of `word` at `pc` in forming an address.
pub fn forms(word: u32, pc: u64) -> Forms {
    let rd = register(word, 0);
    match word {
        _ if word & 0x9f00_0000 == 0x9000_0000 => {
            let pages = page_offset(word) << 12;
            Forms::Base(rd, (pc & !0xfff).wrapping_add_signed(pages))
        }
        _ if word & 0x9f00_0000 == 0x1000_0000 => {
            Forms::Base(rd, pc.wrapping_add_signed(page_offset(word)))
        }
        _ if word & 0xff80_0000 == 0x9100_0000 => {
            let shift = if word & 1 << 22 == 0 { 0 } else { 12 };
            Forms::Sum(rd, register(word, 5), u64::from(word >> 10 & 0xfff) << shift)
        }
        _ if word & 0xff20_0000 == 0x8b00_0000 => Forms::Register(rd),
        _ => Forms::Nothing,
    }
}

fn register(word: u32, at: u32) -> u8 {
    (word >> at & 31) as u8
}

/// `pc` plus four times the signed field of `bits` bits at `at`.
fn relative(pc: u64, word: u32, at: u32, bits: u32) -> u64 {
    pc.wrapping_add_signed(4 * signed(u64::from(word >> at), bits))
}

/// The signed 21-bit field of ADR and ADRP: its low two bits stand apart.
fn page_offset(word: u32) -> i64 {
    signed(u64::from(word >> 5 & 0x7_ffff) << 2 | u64::from(word >> 29 & 3), 21)
}

fn signed(value: u64, bits: u32) -> i64 {
    ((value << (64 - bits)) as i64) >> (64 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PC: u64 = 0x1_0000;

    #[test]
    fn branches_go_where_the_manual_says() {
        assert_eq!(flow(0x1400_0001, PC), Flow::Jump(PC + 4), "b .+4");
        assert_eq!(flow(0x17ff_ffff, PC), Flow::Jump(PC - 4), "b .-4");
        assert_eq!(flow(0x9400_0400, PC), Flow::Call(PC + 0x1000), "bl .+0x1000");
        assert_eq!(flow(0x97ff_fc00, PC), Flow::Call(PC - 0x1000), "bl .-0x1000");
        assert_eq!(flow(0x5400_0041, PC), Flow::Maybe(PC + 8), "b.ne .+8");
        assert_eq!(flow(0xb4ff_ffe3, PC), Flow::Maybe(PC - 4), "cbz x3, .-4");
        assert_eq!(flow(0x3500_0040, PC), Flow::Maybe(PC + 8), "cbnz w0, .+8");
        assert_eq!(flow(0x3640_0062, PC), Flow::Maybe(PC + 12), "tbz w2, #8, .+12");
        assert_eq!(flow(0xb707_ffe0, PC), Flow::Maybe(PC - 4), "tbnz x0, #32, .-4");
    }

    #[test]
    fn register_branches_calls_and_returns_are_told_apart() {
        assert_eq!(flow(0xd61f_0200, PC), Flow::JumpRegister(16), "br x16");
        assert_eq!(flow(0xd63f_0020, PC), Flow::CallRegister, "blr x1");
        assert_eq!(flow(0xd73f_0801, PC), Flow::CallRegister, "blraa x0, x1");
        assert_eq!(flow(0xd65f_03c0, PC), Flow::Away, "ret");
        assert_eq!(flow(0xd69f_03e0, PC), Flow::Away, "eret");
        assert_eq!(flow(0xd420_0020, PC), Flow::Trap, "brk #1");
        assert_eq!(flow(0x0000_0000, PC), Flow::Trap, "udf #0");
    }

    #[test]
    fn what_is_no_branch_goes_on() {
        for (word, text) in [
            (0xd503_201f, "nop"),
            (0xd400_0002, "hvc #0"),
            (0xd400_0003, "smc #0"),
            (0xf940_0021, "ldr x1, [x1]"),
            (0x9100_43ff, "add sp, sp, #16"),
        ] {
            assert_eq!(flow(word, PC), Flow::Next, "{text}");
        }
    }

    #[test]
    fn addresses_are_formed_as_the_manual_says() {
        assert_eq!(forms(0xb000_0001, PC + 8), Forms::Base(1, PC + 0x1000), "adrp x1, +1 page");
        assert_eq!(forms(0xf0ff_ffe2, PC + 8), Forms::Base(2, PC - 0x1000), "adrp x2, -1 page");
        assert_eq!(forms(0x1000_0043, PC), Forms::Base(3, PC + 8), "adr x3, .+8");
        assert_eq!(forms(0x70ff_ffe3, PC), Forms::Base(3, PC - 1), "adr x3, .-1");
        assert_eq!(forms(0x910c_4021, PC), Forms::Sum(1, 1, 0x310), "add x1, x1, #0x310");
        assert_eq!(forms(0x9140_0440, PC), Forms::Sum(0, 2, 0x1000), "add x0, x2, #1, lsl #12");
        assert_eq!(forms(0x8b09_0908, PC), Forms::Register(8), "add x8, x8, x9, lsl #2");
        assert_eq!(forms(0x1100_0400, PC), Forms::Nothing, "add w0, w0, #1: no address");
        assert_eq!(forms(0xf940_0021, PC), Forms::Nothing, "ldr x1, [x1]");
    }
}
