//! Huge pages of 2 MB, which a lab adds to the machine's and takes away again.
//!
//! Each lab adds all that it needs, and notes how many that were: so labs that run at the same time,
//! and end in any order, leave the machine as it was.

use std::{fs, fs::File, path::Path};

const TOTAL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
/// Those of the total that go as soon as whoever uses them does: they have been taken away already.
const SURPLUS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
/// Held while the machine's number is read and changed.
const LOCK: &str = "/run/shunt-lab.hugepages.lock";
const TRIES: usize = 5;
/// In a lab's directory: how many pages it added.
const NOTE: &str = "hugepages";

/// Makes sure of pages for so many megabytes; false, with nothing changed, when the machine won't
/// give them. A director needs no hugetlbfs: its EAL runs `--in-memory`.
pub(super) fn reserve(mib: usize, dir: &Path) -> bool {
    let wanted = mib / 2;
    let _lock = lock();
    let added = add(wanted);
    if fs::write(dir.join(NOTE), added.to_string()).is_err() {
        take_away(added);
        return false;
    }
    let is_enough = added == wanted || number(FREE).is_some_and(|free| free >= wanted);
    if !is_enough {
        take_away(added);
        let _ = fs::remove_file(dir.join(NOTE));
    }
    is_enough
}

/// Adds what is missing of the pages that `reserve` made sure of: any program of the machine may have
/// taken some, as tables of connections do.
pub(super) fn top_up(mib: usize, dir: &Path) {
    let _lock = lock();
    let note = dir.join(NOTE);
    let missing = (mib / 2).saturating_sub(number(FREE).unwrap_or_default());
    let Some(before) = note.to_str().and_then(number) else { return };
    if missing > 0 {
        let added = add(missing);
        if fs::write(&note, (before + added).to_string()).is_err() {
            take_away(added);
        }
    }
}

/// Adds pages; returns how many the kernel found.
fn add(pages: usize) -> usize {
    let Some(before) = lasting() else { return 0 };
    let mut added = 0;
    // Where files fill the memory, the kernel makes room for a part each time.
    for _ in 0..TRIES {
        let _ = fs::write(TOTAL, (before + pages).to_string());
        added = lasting().unwrap_or(before).saturating_sub(before);
        if added == pages {
            break;
        }
    }
    added
}

/// Takes away what `reserve` added for the lab of that directory.
pub(super) fn restore(dir: &Path) {
    let note = dir.join(NOTE);
    let Some(added) = note.to_str().and_then(number) else { return };
    let _lock = lock();
    take_away(added);
    let _ = fs::remove_file(note);
}

fn take_away(pages: usize) {
    if let Some(total) = lasting() {
        let _ = fs::write(TOTAL, total.saturating_sub(pages).to_string());
    }
}

/// How many pages the machine is to have.
fn lasting() -> Option<usize> {
    Some(number(TOTAL)?.saturating_sub(number(SURPLUS).unwrap_or_default()))
}

fn number(file: &str) -> Option<usize> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Without it two labs might lose count, which is no reason to fail.
fn lock() -> Option<File> {
    let file = File::create(LOCK).ok()?;
    file.lock().ok()?;
    Some(file)
}
