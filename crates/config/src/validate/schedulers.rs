//! `scheduler-flags`.

use super::report::{Report, either};
use crate::{Scheduler, SchedulerFlags, fault::Fault, raw, suggest::nearest};

/// Every flag, with its scheduler and what it sets.
const FLAGS: [(&str, Scheduler, SchedulerFlags); 4] = [
    ("sh-fallback", Scheduler::Sh, SchedulerFlags { fallback: true, port: false }),
    ("sh-port", Scheduler::Sh, SchedulerFlags { fallback: false, port: true }),
    ("mh-fallback", Scheduler::Mh, SchedulerFlags { fallback: true, port: false }),
    ("mh-port", Scheduler::Mh, SchedulerFlags { fallback: false, port: true }),
];

/// The flags of a service with this `scheduler`, `None` if that is wrong.
pub(super) fn flags(
    raw: &raw::Service,
    scheduler: Option<Scheduler>,
    report: &mut Report,
) -> SchedulerFlags {
    let mut flags = SchedulerFlags::default();
    let Some(words) = &raw.scheduler_flags else { return flags };
    for word in words.get_ref() {
        if let Some(flag) = report.check(word.span(), flag(word.get_ref(), scheduler)) {
            flags.fallback |= flag.fallback;
            flags.port |= flag.port;
        }
    }
    report.duplicates(words.get_ref(), |word, _| {
        Fault::new(format!("flag `{word}` is written twice")).help("write it once")
    });
    flags
}

fn flag(word: &str, scheduler: Option<Scheduler>) -> Result<SchedulerFlags, Fault> {
    let names = FLAGS.map(|(name, ..)| name);
    let Some((_, of, flag)) = FLAGS.into_iter().find(|&(name, ..)| name == word) else {
        let help = match nearest(word, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "leave it out".to_owned(),
        };
        let message = format!("`{word}` is no scheduler flag; it can be {}", either(&names));
        return Err(Fault::new(message).help(help));
    };
    let Some(scheduler) = scheduler.filter(|&scheduler| scheduler != of) else { return Ok(flag) };
    let twin = FLAGS.into_iter().find(|&(_, of, same)| of == scheduler && same == flag);
    let help = match twin {
        Some((twin, ..)) => format!("write `{twin}`"),
        None => format!("leave it out, or write `scheduler = \"{of}\"`"),
    };
    Err(Fault::new(format!(
        "flag `{word}` is for scheduler `{of}`; this service has `{scheduler}`"
    ))
    .help(help))
}
