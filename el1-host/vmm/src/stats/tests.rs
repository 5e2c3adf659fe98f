//! Counting.

use host_mirror::Calls;
use host_mirror::fake::{FakeEl2, pfn};
use hyp_abi::Hypercall;
use hyp_abi::run::Exit;

use super::*;

#[test]
fn each_kind_of_exit_is_counted_by_itself() {
    let mut exits = Exits::default();
    for exit in [Exit::Hvc, Exit::Irq, Exit::Hvc] {
        exits.count(exit);
    }
    assert_eq!((exits.of(Exit::Hvc), exits.of(Exit::Irq), exits.of(Exit::Smc)), (2, 1, 0));
    assert_eq!(exits.iter().map(|(_, n)| n).sum::<u64>(), 3);
    assert!(exits.iter().map(|(kind, _)| kind).eq(Exit::ALL));
}

#[test]
fn each_kind_of_hypercall_is_counted_and_passed_on() {
    let el2 = FakeEl2::new();
    let counting = Counting::new(el2.cpu());
    counting.share_hyp(pfn(1)).unwrap();
    counting.unshare_hyp(pfn(1)).unwrap();
    counting.unshare_hyp(pfn(1)).unwrap_err();
    assert_eq!(counting.calls.of(Hypercall::ShareHyp), 1);
    assert_eq!(counting.calls.of(Hypercall::UnshareHyp), 2);
    assert_eq!(counting.calls.of(Hypercall::VmStats), 0);
    assert_eq!(counting.calls.iter().map(|(_, n)| n).sum::<u64>(), 3);
    assert_eq!(CallCounts::default().iter().count(), Hypercall::ALL.len());
}
