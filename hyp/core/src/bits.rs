//! Words put together from parts.

pub(crate) use hyp_abi::bits::{flag, union};
