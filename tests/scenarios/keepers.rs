//! Two keepers compete over a worker that never works, through reorgs: its jobs are timed out and its sessions reassigned
//! once on the chain that stays, and what the slower keeper lost is reported. The worker is suspended in the block of its
//! third offence, gone from every draw from there on, loses its session to a worker that works (the user's client hands the
//! key over when its subscription tells it), and comes back by reinstate. The duties about jobs that went well, or that
//! nobody is to blame for, are in `keepers_settle`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolEvent;
use lcai::verify_draw::{audit, audit_report};
use lcai_client::UserSession;
use lcai_genesis::ProtocolParams;
use lcai_primitives::contracts::{JobRegistry, WorkerRegistry};
use lcai_rpc::{api::LcaiApiClient, types::DrawReport};
use lcai_sidecar::{reinstate, top_up};
use lcai_tests::{
    ask, is_candidate, offer_to_somebody, open_session, run,
    scene::{Scene, block_of},
    session_with, until,
};
use std::time::Duration;

#[test]
fn timeouts_and_reassignments_happen_once() {
    run(async {
        let params = ProtocolParams { ack_timeout: 8, suspension_cooldown: 5, ..ProtocolParams::devnet() };
        let scene = Scene::start(params, |config| config).await;
        scene.pay_keepers().await;
        let session = times_out_and_reassigns(&scene).await;
        repeats_draws(&scene, &session).await;
        the_user_hands_the_key_over(&scene, session).await;
        assert!(!scene.bounties_add_up().await.is_zero(), "three timeouts paid");
        scene.both_took_part();
        comes_back(&scene).await;
        scene.devnet.stop().await;
    });
}

/// Three timeouts, a reorg that takes them away, and three timeouts again; then the same with the session's new worker.
async fn times_out_and_reassigns(scene: &Scene) -> UserSession {
    let idle = scene.idle.address();
    let session = session_with(&scene.user, idle).await;
    let jobs: Vec<B256> = scene.submit(&session, 3).await.iter().map(|job| job.word().into()).collect();
    scene.done_once_across_a_reorg("claimTimeout", JobRegistry::JobTimedOut::SIGNATURE_HASH, &jobs).await;
    assert_eq!(scene.raw_logs(WorkerRegistry::WorkerSlashed::SIGNATURE_HASH).await.len(), 3);
    let suspensions = scene.raw_logs(WorkerRegistry::WorkerSuspended::SIGNATURE_HASH).await;
    assert_eq!(suspensions.len(), 1);
    let third = scene.raw_logs(JobRegistry::JobTimedOut::SIGNATURE_HASH).await;
    assert_eq!(block_of(&suspensions[0]), block_of(&third[2]), "in the block of the third offence");

    let reassigned = JobRegistry::SessionReassigned::SIGNATURE_HASH;
    scene.done_once_across_a_reorg("reassignSession", reassigned, &[session.id.word().into()]).await;

    // Suspended: no draw on a block since has the worker.
    until("the directory has it", async || scene.worker(idle).await.suspended_until.is_some()).await;
    for _ in 0..5 {
        let offer = offer_to_somebody(&scene.user).await;
        assert!(offer.facts.block.number >= block_of(&suspensions[0]), "drawn on the directory of its block");
        assert!(offer.facts.candidates.iter().all(|c| c.worker != idle));
        scene.blocks(1).await;
    }
    session
}

/// Draws are repeated from the chain and the kept facts: the one that the worker won, and one after its suspension.
async fn repeats_draws(scene: &Scene, won: &UserSession) {
    let (idle, user) = (scene.idle.address(), &scene.user);
    let audited = audit(user.node(), won.id).await.unwrap();
    assert_eq!(audited.drawn, Some(idle));
    let found = &audited.findings;
    assert_eq!((found.wrong.clone(), found.unchecked.clone()), (vec![], vec![]));
    // Draw, creation, signature, block, directory; and that it went to another worker since, by the chain's own draw.
    assert_eq!(found.checked.len(), 6, "{:?}", found.checked);
    assert!(found.checked[5].contains("the chain's own draw"), "{:?}", found.checked);
    finds_lies(scene, &audited.report).await;

    let session = open_session(user).await;
    let known = async || user.node().rpc().get_session(session.id).await.unwrap().is_some();
    until("the node's directory has the session", known).await;
    let audited = audit(user.node(), session.id).await.unwrap();
    audited.verdict().unwrap();
    let lines = audited.lines(&[idle, Address::ZERO]);
    let of = |worker: Address| lines.iter().find(|line| line.starts_with(&worker.to_string())).unwrap();
    assert!(of(idle).contains("no candidate: suspended"), "{lines:?}");
    assert!(of(Address::ZERO).contains("did not list the model"), "{lines:?}");
}

/// A node that tells another story is found out.
async fn finds_lies(scene: &Scene, report: &DrawReport) {
    type Lie = fn(&mut DrawReport);
    let lies: [(&str, Lie); 9] = [
        ("is not in the facts", |r| drop(r.workers.remove(0))),
        ("one is there twice", |r| r.workers.push(r.workers[0].clone())),
        ("weigh", |r| r.workers[0].reputation += 1),
        ("bps weigh", |r| r.workers[0].standing_bps = 10_001),
        ("stake cap", |r| r.stake_cap *= U256::from(2)),
        ("said to be none: draining", |r| r.workers[0].why_not = Some("draining".into())),
        ("open jobs", |r| r.workers[0].open_jobs += 1),
        ("did not sign its heartbeat", |r| {
            r.workers[0].heartbeat.as_mut().unwrap().max_jobs += 1;
        }),
        ("and was none", |r| {
            let worker = &mut r.workers[0];
            (worker.heartbeat, worker.why_not) = (None, None);
        }),
    ];
    for (what, lie) in lies {
        let mut told = report.clone();
        lie(&mut told);
        let audited = audit_report(scene.user.node(), told).await.unwrap();
        let wrong = &audited.findings.wrong;
        assert!(wrong.iter().any(|found| found.contains(what)), "{what}: {wrong:?}");
        audited.verdict().unwrap_err();
    }
    // A block that a reorg took away is nobody's lie; what its hash draws still has to be the worker.
    let mut gone = report.clone();
    gone.block.hash = B256::ZERO;
    let audited = audit_report(scene.user.node(), gone).await.unwrap();
    let unchecked = &audited.findings.unchecked;
    assert!(unchecked.iter().any(|found| found.contains("not on the chain any more")), "{unchecked:?}");
    assert!(audited.findings.wrong.iter().all(|found| !found.contains("block")), "{:?}", audited.findings);
}

/// The user's client is told of the new worker by its subscription, and the conversation goes on.
async fn the_user_hands_the_key_over(scene: &Scene, session: UserSession) {
    let now = tokio::time::timeout(Duration::from_secs(60), scene.user.next_worker(&session)).await;
    let now = now.expect("the subscription tells of the new worker").unwrap().unwrap();
    assert_ne!(now.worker, scene.idle.address());
    assert_eq!(now.worker, scene.devnet.workers()[0]);
    let (answer, _) = ask(&scene.user, &now, "What is the capital of France?").await;
    assert!(answer.text.contains("Paris"), "{}", answer.text);
}

/// Only by reinstate, after the cooldown, and with stake enough.
async fn comes_back(scene: &Scene) {
    let (node, deployment, signer) = (scene.user.node(), scene.devnet.deployment(), &scene.idle.signer);
    reinstate(node.chain(), deployment, signer).await.unwrap().expect("it was suspended");
    top_up(node.chain(), deployment, signer, None).await.unwrap().expect("it was slashed");
    until("it can be drawn again", async || is_candidate(&scene.user, signer.address()).await).await;
}
