use std::{any::Any, sync::Mutex};

use super::hash::Random;

/// What a worker remembers of a service from pick to pick, whatever its scheduler is. It may be of any
/// schedule, and goes over to another one at the first pick.
#[derive(Debug)]
pub(crate) struct WorkerState {
    /// The worker's number.
    pub(super) worker: usize,
    /// The number of the schedule that it last went over to; 0 is none.
    version: u64,
    /// What `twos` draws from.
    pub(super) random: Random,
    memory: Option<Memory>,
}

/// What schedulers remember beyond that, each what it likes.
type Memory = Box<dyn Any + Send>;

impl WorkerState {
    /// The state of a worker that has picked nothing. Allocates nothing.
    pub(crate) const fn new(worker: usize) -> WorkerState {
        WorkerState { worker, version: 0, random: Random::new(0), memory: None }
    }

    /// Goes over to the schedule of this number, and says whether it was another one before.
    #[inline]
    pub(super) fn goes_over_to(&mut self, version: u64) -> bool {
        std::mem::replace(&mut self.version, version) != version
    }

    /// What is remembered, if it is of this kind.
    pub(super) fn memory<T: Any + Send>(&mut self) -> Option<&mut T> {
        self.memory.as_mut()?.downcast_mut()
    }

    /// What is remembered, begun anew if it is of another kind.
    pub(super) fn memory_or_begin<T: Any + Send>(&mut self, begin: impl FnOnce() -> T) -> &mut T {
        let is_of_kind = self.memory.as_ref().is_some_and(|memory| memory.is::<T>());
        if !is_of_kind {
            self.memory = Some(Box::new(begin()));
        }
        self.memory().expect("it is of this kind")
    }

    /// Forgets what is remembered.
    pub(super) fn forget(&mut self) {
        self.memory = None;
    }
}

/// Memory that is allocated on the main lcore, for each worker to take over when it first picks, in
/// exchange for what it had before: that is freed along with the schedule, on the main lcore, too.
#[derive(Debug)]
pub(super) struct Handover(Box<[Mutex<Option<Memory>>]>);

impl Handover {
    pub(super) fn new<T: Any + Send>(workers: usize, prepare: impl Fn() -> T) -> Handover {
        let memory = || Mutex::new(Some(Box::new(prepare()) as Memory));
        Handover((0..workers).map(|_| memory()).collect())
    }

    /// Where a worker's memory is, if it is of this kind.
    #[cfg(test)]
    pub(super) fn address<T: Any + Send>(&self, worker: usize) -> Option<*const T> {
        let place = self.0[worker].lock().unwrap();
        place.as_ref()?.downcast_ref().map(std::ptr::from_ref)
    }

    /// Takes over, provided that what is there is fit for it: a state that is not the worker's first
    /// one for a schedule finds what that left. `continues` is given what was prepared and what the
    /// worker had before, if that is of the same kind.
    ///
    /// The lock is never contended, since each worker has its own, and it is taken once for a schedule.
    pub(super) fn take_over<T: Any + Send>(
        &self,
        state: &mut WorkerState,
        is_fit: impl Fn(&T) -> bool,
        continues: impl FnOnce(&mut T, &T),
    ) {
        let Some(mut place) = self.0.get(state.worker).and_then(|place| place.try_lock().ok())
        else {
            return;
        };
        if !place.as_deref().and_then(|memory| memory.downcast_ref()).is_some_and(is_fit) {
            return;
        }
        std::mem::swap(&mut *place, &mut state.memory);
        let before = place.as_deref().and_then(|memory| memory.downcast_ref());
        if let (Some(prepared), Some(before)) = (state.memory(), before) {
            continues(prepared, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_small() {
        assert!(size_of::<WorkerState>() <= 48);
    }

    #[test]
    fn what_was_prepared_is_exchanged_once() {
        let mut state = WorkerState::new(1);
        let prepared = Handover::new(2, || 7u32);
        prepared.take_over(&mut state, |_| true, |_: &mut u32, _| panic!("nothing to continue"));
        assert_eq!(state.memory(), Some(&mut 7u32));
        assert_eq!(state.memory::<u64>(), None);

        let next = Handover::new(2, || 8u32);
        next.take_over(&mut state, |_| true, |after: &mut u32, before| *after += before);
        assert_eq!(state.memory(), Some(&mut 15u32));

        let mut late = WorkerState::new(1);
        next.take_over(&mut late, |number| *number == 8, |_: &mut u32, _| ());
        assert_eq!(late.memory::<u32>(), None, "what is left is not what was prepared");
        let mut stranger = WorkerState::new(2);
        next.take_over(&mut stranger, |_| true, |_: &mut u32, _| ());
        assert_eq!(stranger.memory::<u32>(), None);
    }
}
