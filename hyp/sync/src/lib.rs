//! hyp/sync
