//! What the hardware does where the core's tests have a fake machine: the sequences of barriers and
//! maintenance instructions in EL2's sources, judged by the architecture's rules (DDI0487 B2.3, D8.14).
//!
//! No emulator shows a barrier that is missing, so the sources themselves are read.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The lines of a function, without comments.
fn body(file: &str, function: &str) -> String {
    let text = source(file);
    let head = Regex::new(&format!(r"(?m)^( *)(pub )?fn {function}[(<]")).expect("an expression");
    let found: Vec<_> = head.captures_iter(&text).collect();
    let [head] = &found[..] else { panic!("{} of {function} in {file}", found.len()) };
    let rest = &text[head.get(0).expect("what matched").start()..];
    let end = rest.find(&format!("\n{}}}", &head[1])).expect("the end of a function");
    let lines = rest[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The barriers, instructions and register writes of a function, in order.
fn steps(file: &str, function: &str) -> Vec<String> {
    let pattern = r#"\b(dsb_\w+|isb|freeze|thaw|f)\(|tlbi!\("(\w+)"|asm!\("((?:dc|ic) \w+)|(VTTBR_EL2|SCTLR_EL1|TCR_EL1)\.set\("#;
    let step = Regex::new(pattern).expect("an expression");
    let body = body(file, function);
    let (_, inside) = body.split_once('{').expect("a body");
    let name = |found: regex::Captures<'_>| match (found.get(1), found.get(2)) {
        (Some(call), _) => call.as_str().replace('_', " "),
        (_, Some(tlbi)) => format!("tlbi {}", tlbi.as_str()),
        _ => found.get(3).or(found.get(4)).expect("one of them").as_str().to_owned(),
    };
    step.captures_iter(inside).map(name).collect()
}

/// What one CPU's steps have achieved so far.
#[derive(Default)]
struct Progress {
    /// Stores to tables are visible to all walkers.
    published: bool,
    /// Instructions that may not be complete yet.
    open: BTreeSet<String>,
    /// Instructions that are.
    complete: BTreeSet<String>,
    /// What follows is fetched, and translated, anew.
    synchronised: bool,
}

/// Goes through TLB maintenance; what is complete everywhere it was meant to be at the end.
fn maintained(steps: &[String]) -> Result<(BTreeSet<String>, bool), String> {
    let mut at = Progress::default();
    for step in steps {
        let broadcast = |step: &str| step.ends_with("is");
        match step.as_str() {
            "dsb ishst" => at.published = true,
            "dsb ish" | "dsb nsh" => {
                let here = step == "dsb nsh";
                at.published |= !here;
                let open = std::mem::take(&mut at.open).into_iter();
                let (open, complete) = open.partition(|step| here && broadcast(step));
                at.open = open;
                at.complete.extend::<BTreeSet<_>>(complete);
            }
            "isb" => at.synchronised = at.open.is_empty(),
            _ => {
                // An entry that combines both stages could be made again out of the old stage 2.
                let first_stage = step.starts_with("tlbi vmalle1");
                if let Some(before) = at.open.iter().find(|s| first_stage && s.contains("ipas2")) {
                    return Err(format!("{step} before {before} is complete"));
                }
                at.synchronised = false;
                at.open.insert(step.clone());
            }
        }
    }
    if !at.open.is_empty() || !at.synchronised {
        return Err(format!("{:?} are open, synchronised: {}", at.open, at.synchronised));
    }
    Ok((at.complete, at.published))
}

const TLB: &str = "hyp/src/arch/tlb.rs";

#[track_caller]
fn drops(function: &str, published: bool, what: &[&str]) {
    let steps = steps(TLB, function);
    let what = what.iter().map(|step| (*step).to_owned()).collect();
    assert_eq!(maintained(&steps), Ok((what, published)), "{function}: {steps:?}");
    // Stores come before all else.
    assert!(!published || steps.first().is_some_and(|step| step == "dsb ishst"), "{steps:?}");
}

#[test]
fn an_ipa_is_dropped_on_all_cpus_stage_2_first() {
    drops("inval_ipa", true, &["tlbi ipas2e1is", "tlbi vmalle1is"]);
}

#[test]
fn an_ipa_is_dropped_on_one_cpu_stage_2_first() {
    drops("inval_ipa_local", true, &["tlbi ipas2e1", "tlbi vmalle1"]);
}

#[test]
fn a_vmid_is_dropped_on_all_cpus() {
    drops("inval_vmid", true, &["tlbi vmalls12e1is"]);
}

#[test]
fn another_vcpu_finds_no_stage_1_entries_and_no_instructions() {
    drops("switch_vcpu", false, &["ic iallu", "tlbi vmalle1"]);
}

#[test]
fn before_the_host_runs_all_entries_are_dropped() {
    drops("inval_all_local", false, &["tlbi alle1"]);
    // Walks that boot began are over before that.
    assert_eq!(steps(TLB, "inval_all_local")[0], "dsb nsh");
}

#[test]
fn maintenance_in_another_regime_is_fenced_off_from_its_walks() {
    let switch = "hyp/src/arch/switch.rs";
    let around = ["dsb nsh", "freeze", "VTTBR_EL2", "isb", "f", "VTTBR_EL2", "thaw", "isb"];
    // In its own regime it needs no more.
    let [ran, rest @ ..] = &steps(switch, "in_regime")[..] else { panic!("no steps") };
    assert_eq!((ran.as_str(), rest), ("f", &around.map(str::to_owned)[..]));
    assert_eq!(steps(switch, "freeze"), ["TCR_EL1", "isb", "SCTLR_EL1", "isb"]);
    assert_eq!(steps(switch, "thaw"), ["isb", "SCTLR_EL1", "isb", "TCR_EL1"]);
}

#[test]
fn cleaned_lines_have_reached_memory() {
    assert_eq!(steps("hyp/src/arch/cache.rs", "clean_to_poc"), ["dc civac", "dsb sy"]);
}

#[test]
fn new_code_is_fetched_by_all_cpus() {
    let steps = steps("hyp/src/arch/cache.rs", "sync_icache");
    assert_eq!(steps, ["dc cvau", "dsb ish", "ic ivau", "ic ialluis", "dsb ish", "isb"]);
}

#[test]
fn the_machine_does_what_the_fake_pretends() {
    for (method, does) in [
        ("load", "word(table.pfn(), index).load(Ordering::Acquire)"),
        ("store", "word(table.pfn(), index).store(pte, Ordering::Release);"),
        ("compare_exchange", ".compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)"),
        ("publish", "sysreg::dsb_ishst();"),
        ("inval_ipa", "tlb::inval_ipa(regime, ipa);"),
        ("inval_vmid", "tlb::inval_vmid(regime);"),
        ("inval_ipa_local", "tlb::inval_ipa_local(regime, ipa);"),
        ("switch_vcpu", "tlb::switch_vcpu(regime);"),
        ("zero", "(0..WORDS).for_each(|index| word(pfn, index).store(0, Ordering::Relaxed));"),
        ("clean_to_poc", "cache::clean_to_poc(pfn.pa().raw(), PAGE_SIZE);"),
        ("sync_icache", "cache::sync_icache(pfn.pa().raw(), PAGE_SIZE);"),
    ] {
        let body = body("hyp/src/machine.rs", method);
        assert!(body.contains(does), "{method}: {body}");
    }
}

#[test]
fn a_sequence_with_a_gap_is_noticed() {
    let judge = |steps: &[&str]| {
        maintained(&steps.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>()).is_ok()
    };
    let whole = ["dsb ishst", "tlbi ipas2e1is", "dsb ish", "tlbi vmalle1is", "dsb ish", "isb"];
    assert!(judge(&whole));
    assert!(!judge(&["dsb ishst", "tlbi ipas2e1is", "tlbi vmalle1is", "dsb ish", "isb"]));
    assert!(!judge(&["dsb ishst", "tlbi vmalls12e1is", "isb"]));
    assert!(!judge(&["dsb ishst", "tlbi vmalls12e1is", "isb", "dsb ish"]));
    assert!(!judge(&["dsb ishst", "tlbi vmalls12e1is", "dsb nsh", "isb"]), "not on the others");
}
