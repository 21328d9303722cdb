//! Disputes that canaries' accounts file, and what CanaryLedger is told.

use super::*;
use crate::{
    canary::{Candidate, Epochs, Seed, Standing, Tested, duties},
    core::RevealTask,
};
use async_trait::async_trait;

/// A canary's account, with its lane; the purse stands in another crate.
#[derive(Debug)]
pub(super) struct Filer {
    lane: Option<TxLane>,
    pub(super) counted: Mutex<Vec<U256>>,
}

#[async_trait]
impl CanaryFiler for Filer {
    async fn send_as(&self, account: Address, dispute: TxSpec) -> Result<Sent, FilingError> {
        let lane = self.lane.as_ref().filter(|lane| lane.account() == account);
        let lane = lane.ok_or_else(|| FilingError::NotSent("it has no money".to_owned()))?;
        Ok(lane.send(dispute).await?)
    }

    async fn count(&self, bond: U256) -> Result<(), FilingError> {
        self.counted.lock().push(bond);
        Ok(())
    }
}

/// Gives the node an account that files, or one that cannot.
pub(super) fn filing(node: &DisputeHandler, lane: Option<TxLane>) -> Arc<Filer> {
    let filer = Arc::new(Filer { lane, counted: Mutex::new(Vec::new()) });
    assert!(node.parts.filer.set(filer.clone()).is_ok());
    filer
}

/// A canary that was answered wrongly, and its account.
pub(super) fn canary() -> (Court, PrivateKeySigner) {
    let (mut court, account) = (Court::new("Lyon."), signer(4));
    court.case.user = account.address();
    (court.case.ours, court.case.canary, court.case.by_user) = (true, true, false);
    (court.case.deadline, court.job.lock().escrowedFee) = (NOW + 600, U256::from(10_000));
    court.job.lock().state = JobState::Completed.into();
    (court, account)
}

fn account_lane(court: &Court, account: PrivateKeySigner) -> TxLane {
    TxLane::with_config(court.host.client(), account, lane_config(LaneClass::Ordinary))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canarys_account_files_its_own_dispute() {
    let (court, account) = canary();
    let node = court.node(&journal(), says("Paris."));
    let filer = filing(&node, Some(account_lane(&court, account.clone())));
    assert!(court.judge(&node).await.guilty);
    assert!(matches!(court.run(&node, action::FILE).await, EffectOutcome::Done(_)));
    // The multiplier that the chain answers is 64 of 10,000.
    assert_eq!(court.ledger.lock().disputes, [(account.address(), U256::from(64))]);
    assert_eq!(filer.counted.lock().len(), 0, "its account was paid out of the cap");
    assert!(matches!(court.run(&node, action::FILE).await, EffectOutcome::Done(_)), "it is its own");
    assert_eq!(court.ledger.lock().disputes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disputers_account_files_when_time_is_short() {
    let (mut court, _) = canary();
    let node = court.node(&journal(), says("Paris."));
    let filer = filing(&node, None);
    court.judge(&node).await;
    assert!(matches!(court.run(&node, action::FILE).await, EffectOutcome::Retry { .. }), "its account may");
    court.case.deadline = NOW + 60;
    assert!(matches!(court.run(&node, action::FILE).await, EffectOutcome::Done(_)));
    assert_eq!(court.ledger.lock().disputes, [(signer(1).address(), U256::from(64))]);
    assert_eq!(*filer.counted.lock(), [U256::from(64)], "the bond counts against the treasury's cap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_of_our_keys_that_this_node_did_not_file_stops_it() {
    for filer in [signer(1), signer(4)] {
        let (court, account) = canary();
        let node = court.node(&journal(), says("Paris."));
        filing(&node, Some(account_lane(&court, account)));
        court.judge(&node).await;
        (court.job.lock().state, court.job.lock().disputeFiler) =
            (JobState::Disputed.into(), filer.address());
        let outcome = court.run(&node, action::FILE).await;
        let EffectOutcome::Halt { reason } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("second one"), "{reason}");
        // Somebody else's is none of ours.
        court.job.lock().disputeFiler = USER;
        assert!(matches!(court.run(&node, action::FILE).await, EffectOutcome::Done(_)));
        assert_eq!(court.ledger.lock().disputes, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_committed_by_another_node_stops_this_one_before_it_makes_a_seed() {
    let (court, journal) = (Court::new("Lyon."), journal());
    let node = court.node(&journal, says("Paris."));
    court.ledger.lock().epoch.root = B256::repeat_byte(6);
    let outcome = court.run_epoch(&node, action::COMMIT, &EPOCH).await;
    assert!(matches!(outcome, EffectOutcome::Halt { .. }), "{outcome:?}");
    assert_eq!(node.parts.seeds.as_ref().unwrap().get(EPOCH).await.unwrap(), None);
}

/// The jobs that may meet the epoch's duties, six for each of them.
pub(super) fn reveal_task(seed: &Seed, epoch_seconds: u64) -> (RevealTask, usize) {
    let standing: Vec<Standing> = (0..60)
        .map(|worker| {
            let of = Tested { worker: Address::repeat_byte(worker), model: ModelId::from_name("m") };
            Standing { of, jobs: 0, suspected: false }
        })
        .collect();
    let due = duties(seed, EPOCH, Epochs { length: epoch_seconds }, &standing, 0);
    let later = |n: u64| due.iter().map(move |duty| (duty.at + n, duty.of));
    let jobs = (0..6).flat_map(later).zip(1u64..);
    let jobs = jobs.map(|((at, of), job)| Candidate { at, of, job: JobId(job) }).collect();
    (RevealTask { epoch: EPOCH, epoch_seconds, standing, rate_bps: 0, jobs }, due.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_is_revealed_for_each_duty_however_many_there_were() {
    let (court, journal) = (Court::new("Lyon."), journal());
    let node = court.node(&journal, says("Paris."));
    assert!(matches!(court.run_epoch(&node, action::COMMIT, &EPOCH).await, EffectOutcome::Done(_)));
    let seed = node.parts.seeds.as_ref().unwrap().get(EPOCH).await.unwrap().unwrap();
    let (task, due) = reveal_task(&seed, 600);
    assert_eq!((task.jobs.len(), due), (360, 60), "more than CanaryLedger takes at once");
    assert!(matches!(court.run_epoch(&node, action::REVEAL, &task).await, EffectOutcome::Done(_)));
    let reveals = court.ledger.lock().reveals.clone();
    // The first that came after each duty fell due.
    let first: Vec<U256> = (1..=60).map(U256::from).collect();
    assert_eq!(reveals, [first]);
}
