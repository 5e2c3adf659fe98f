//! hyp/dtb
