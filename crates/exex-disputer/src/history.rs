//! Which conversations a worker can have seen before a job.
//!
//! The rule counts in blocks (`lcai_primitives::history`), and a worker answers at the head: a reorg that came after can
//! have moved an earlier answer behind the job, or before it, or swapped two questions. An honest answer was given to one
//! of the conversations that the chain passed through, so a match with any of them is a match.

use lcai_primitives::{
    history::{PriorJob, answer_in_history, build_history, in_history},
    ids::JobId,
    prompt::Message,
};
use std::collections::BTreeSet;

/// Earlier jobs whose place can differ, at most; the newest of them, where there are more.
const MAX_UNCERTAIN: usize = 4;

/// What a conversation takes of one earlier job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Absent,
    Question,
    Answered,
}

/// The conversations before `job`, submitted at `submit_block`, that can have been the chain's while reorgs went up to
/// `depth` blocks deep: first the chain's own, then those that differ from it in ever more places, at most `limit`.
/// `prior` may hold any other jobs of the session.
pub fn reachable_histories(
    job: JobId,
    submit_block: u64,
    prior: &[PriorJob],
    depth: u64,
    limit: usize,
) -> Vec<Vec<Message>> {
    let mut jobs: Vec<&PriorJob> = prior.iter().filter(|p| p.job_id != job).collect();
    jobs.sort_by_key(|p| p.job_id);
    let options: Vec<Vec<Turn>> = jobs.iter().map(|p| turns(p, job, submit_block, depth)).collect();
    let mut uncertain: Vec<usize> =
        (0..jobs.len()).filter(|i| options.get(*i).is_some_and(|o| o.len() > 1)).collect();
    uncertain.drain(..uncertain.len().saturating_sub(MAX_UNCERTAIN));

    let canonical: Vec<Turn> = options.iter().map(|o| o.first().copied().unwrap_or(Turn::Absent)).collect();
    let mut found: Vec<(usize, Vec<(usize, Turn)>)> = Vec::new();
    for choice in choices(&canonical, &options, &uncertain) {
        let changed = choice.iter().zip(&canonical).filter(|(a, b)| a != b).count();
        for (swaps, order) in orders(&choice, &uncertain).into_iter().enumerate() {
            let turns = order.iter().filter_map(|i| Some((*i, *choice.get(*i)?)));
            let turns: Vec<_> = turns.filter(|(_, turn)| *turn != Turn::Absent).collect();
            found.push((changed + usize::from(swaps > 0), turns));
        }
    }
    // Stable: the chain's own was first among those that change nothing.
    found.sort_by_key(|(changes, _)| *changes);
    let mut seen = BTreeSet::new();
    found.retain(|(_, turns)| seen.insert(turns.clone()));
    found.truncate(limit.max(1));
    found.into_iter().map(|(_, turns)| conversation(&jobs, &turns)).collect()
}

/// What a conversation can take of an earlier job, the chain's own first.
fn turns(prior: &PriorJob, job: JobId, submit_block: u64, depth: u64) -> Vec<Turn> {
    let near = |block: u64| block.abs_diff(submit_block) <= depth;
    let included = in_history(prior.job_id, prior.submit_block, job, submit_block);
    let movable = near(prior.submit_block);
    if !included && !movable {
        return vec![Turn::Absent];
    }
    let answer = prior.answer.as_ref();
    let answered = answer.is_some_and(|a| answer_in_history(a.completion_block, submit_block));
    let now = match (included, answered) {
        (false, _) => Turn::Absent,
        (true, false) => Turn::Question,
        (true, true) => Turn::Answered,
    };
    let mut options = vec![now];
    if movable {
        options.push(Turn::Absent);
        options.push(Turn::Question);
    }
    if let Some(answer) = answer.filter(|a| near(a.completion_block)) {
        options.push(Turn::Question);
        // An answer that came later than a reorg can reach was never there.
        if answer.completion_block <= submit_block.saturating_add(depth) {
            options.push(Turn::Answered);
        }
    } else if answered {
        options.push(Turn::Answered);
    }
    let mut seen = BTreeSet::new();
    options.retain(|turn| seen.insert(*turn));
    options
}

/// Every way to choose for the uncertain ones, the chain's own first.
fn choices(canonical: &[Turn], options: &[Vec<Turn>], uncertain: &[usize]) -> Vec<Vec<Turn>> {
    let mut all = vec![canonical.to_vec()];
    for index in uncertain {
        let turns = options.get(*index).map(Vec::as_slice).unwrap_or_default();
        all = all
            .iter()
            .flat_map(|choice| {
                turns.iter().map(|turn| {
                    let mut choice = choice.clone();
                    if let Some(slot) = choice.get_mut(*index) {
                        *slot = *turn;
                    }
                    choice
                })
            })
            .collect();
    }
    all
}

/// The order by id first, then every other order of the uncertain ones that are there.
fn orders(choice: &[Turn], uncertain: &[usize]) -> Vec<Vec<usize>> {
    let moved: Vec<usize> =
        uncertain.iter().copied().filter(|i| choice.get(*i).is_some_and(|t| *t != Turn::Absent)).collect();
    let by_id: Vec<usize> = (0..choice.len()).collect();
    permutations(&moved)
        .into_iter()
        .map(|permuted| {
            let mut order = by_id.clone();
            for (place, index) in moved.iter().zip(permuted) {
                if let Some(slot) = order.get_mut(*place) {
                    *slot = index;
                }
            }
            order
        })
        .collect()
}

/// All orders of a few items, the given one first.
fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    let Some((first, rest)) = items.split_first() else { return vec![Vec::new()] };
    let mut all = Vec::new();
    for place in 0..items.len() {
        for mut permuted in permutations(rest) {
            permuted.insert(place.min(permuted.len()), *first);
            all.push(permuted);
        }
    }
    all
}

/// The messages of the chosen turns, by the one rule for what a turn says.
fn conversation(jobs: &[&PriorJob], turns: &[(usize, Turn)]) -> Vec<Message> {
    let chosen = turns.iter().zip(0u64..).filter_map(|((index, turn), id)| {
        let job = jobs.get(*index)?;
        let answer = job.answer.clone().filter(|_| *turn == Turn::Answered);
        let answer =
            answer.map(|answer| lcai_primitives::history::PriorAnswer { completion_block: 0, ..answer });
        Some(PriorJob { job_id: JobId(id), submit_block: 0, prompt: job.prompt.clone(), answer })
    });
    let chosen: Vec<PriorJob> = chosen.collect();
    build_history(JobId(chosen.len() as u64), 0, &chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcai_primitives::history::PriorAnswer;
    use proptest::prelude::*;

    fn job(id: u64, block: u64, answered: Option<u64>) -> PriorJob {
        PriorJob {
            job_id: JobId(id),
            submit_block: block,
            prompt: format!("q{id}").into_bytes(),
            answer: answered.map(|block| PriorAnswer {
                completion_block: block,
                plaintext: format!("a{id}").into_bytes(),
            }),
        }
    }

    fn said(histories: &[Vec<Message>]) -> Vec<String> {
        let line = |h: &Vec<Message>| h.iter().map(|m| m.content.clone()).collect::<Vec<_>>().join(" ");
        histories.iter().map(line).collect()
    }

    fn reachable(prior: &[PriorJob], depth: u64) -> Vec<String> {
        said(&reachable_histories(JobId(9), 100, prior, depth, 1000))
    }

    #[test]
    fn old_turns_are_certain() {
        let prior = [job(1, 10, Some(12)), job(2, 20, None)];
        assert_eq!(reachable(&prior, 5), ["q1 a1 q2"]);
        assert_eq!(reachable(&[], 5), [""]);
    }

    #[test]
    fn an_answer_near_the_job_may_have_been_there_or_not() {
        assert_eq!(reachable(&[job(1, 10, Some(99))], 5), ["q1 a1", "q1"]);
        assert_eq!(reachable(&[job(1, 10, Some(103))], 5), ["q1", "q1 a1"]);
        assert_eq!(reachable(&[job(1, 10, Some(106))], 5), ["q1"], "further than a reorg reaches");
        assert_eq!(reachable(&[job(1, 10, Some(99))], 0), ["q1 a1"], "without reorgs there is one");
    }

    #[test]
    fn a_question_near_the_job_may_have_been_behind_it() {
        assert_eq!(reachable(&[job(1, 98, None)], 5), ["q1", ""]);
        // A later one may have been before it.
        assert_eq!(reachable(&[job(10, 102, None)], 5), ["", "q10"]);
    }

    #[test]
    fn two_questions_near_the_job_may_have_been_swapped() {
        let prior = [job(1, 98, None), job(2, 99, None)];
        let found = reachable(&prior, 5);
        assert_eq!(found[0], "q1 q2");
        let mut all = found.clone();
        all.sort();
        assert_eq!(all, ["", "q1", "q1 q2", "q2", "q2 q1"]);
        assert_eq!(found.last().unwrap(), "", "what differs most comes last");
    }

    #[test]
    fn the_nearest_are_kept_when_there_are_too_many() {
        let prior: Vec<PriorJob> = (1..=8).map(|id| job(id, 98, Some(99))).collect();
        let found = reachable_histories(JobId(9), 100, &prior, 5, 7);
        assert_eq!(found.len(), 7);
        assert_eq!(said(&found)[0], (1..=8).map(|i| format!("q{i} a{i}")).collect::<Vec<_>>().join(" "));
    }

    proptest! {
        /// The chain's own is always first, nothing comes twice, and what a fork gives by the rule itself is among them.
        #[test]
        fn forks_are_covered(
            jobs in prop::collection::vec((0u64..6, prop::option::of(0u64..6), 0u64..6, prop::option::of(0u64..6)), 0..4),
        ) {
            // Each job has a block here and one on a fork, all within reach.
            let here: Vec<_> = jobs.iter().zip(1..).map(|((b, a, _, _), id)| job(id, 97 + b, a.map(|a| 97 + a))).collect();
            let fork: Vec<_> = jobs.iter().zip(1..).map(|((_, had, b, a), id)| {
                // An answer that never reached our chain cannot be known.
                job(id, 97 + b, had.and(*a).map(|a| 97 + a))
            }).collect();
            let found = reachable_histories(JobId(9), 100, &here, 6, usize::MAX);
            prop_assert_eq!(&found[0], &build_history(JobId(9), 100, &here));
            let lines = said(&found);
            prop_assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len());
            let there = said(&[build_history(JobId(9), 100, &fork)]).remove(0);
            prop_assert!(lines.contains(&there), "{} is not among {:?}", there, lines);
        }
    }
}
