"""The decisions: every refusal of a switchover, the quorum rule against a model of it, promotion and rejoin."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations, product

import pytest

from tests.support import snapshots as s
from wmsctl.failover import plan
from wmsctl.failover.plan import AlreadySo, PromotePlan, Refusal, RejoinPlan, SwitchoverPlan
from wmsctl.failover.snapshot import Snapshot, StoreView, SyncView, Unfinished


def subsets(items: tuple[str, ...]) -> list[frozenset[str]]:
    return [frozenset(c) for c in chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))]


class TestSwitchover:
    def test_takes_the_highest_priority_by_default(self) -> None:
        decision = plan.switchover(s.healthy())
        assert isinstance(decision, SwitchoverPlan)
        assert (decision.leader, decision.candidate, decision.timeline) == ("pg-1", "pg-2", 5)

    def test_pauses_the_write_database_last(self) -> None:
        decision = plan.switchover(s.healthy())
        assert isinstance(decision, SwitchoverPlan)
        assert decision.poolers == {f"proxy-{i}": ("wms_read", "wms_reports", "wms") for i in (1, 2)}

    def test_prefers_less_lag_among_equal_priorities(self) -> None:
        even = [s.replica(name, priority=1) for name in s.REPLICAS]
        decision = plan.switchover(
            s.healthy(*even[:2], replace(even[2], replay_lag=0), replace(even[0], replay_lag=9))
        )
        assert isinstance(decision, SwitchoverPlan)
        assert decision.candidate == "pg-4"

    def test_the_leader_itself_is_already_so(self) -> None:
        assert isinstance(plan.switchover(s.healthy(), "pg-1"), AlreadySo)

    def test_takes_another_when_the_best_is_unfit(self) -> None:
        decision = plan.switchover(s.healthy(s.replica("pg-2", nofailover=True)))
        assert isinstance(decision, SwitchoverPlan)
        assert decision.candidate == "pg-3"

    @pytest.mark.parametrize(
        ("snapshot", "reason"),
        [
            (s.healthy(paused=True), "Patroni is paused"),
            (s.healthy(unfinished=(Unfinished("x-1", "switchover", "t"),)), "unfinished"),
            (s.healthy(store=s.store("")), "no leader"),
            (s.healthy(store=StoreView(answers=False, trouble="no quorum")), "no certain answer"),
            (s.healthy(s.primary(answers=False, trouble="timed out")), "is not well"),
            (s.healthy(s.primary(sql=False)), "does not answer a query"),
            (s.healthy(s.primary(role="replica")), "runs as replica"),
            (s.healthy(store=s.store(failover_pending=True)), "another switchover"),
            (s.healthy(s.dead("pg-3"), s.dead("pg-4")), "only 2 members are healthy"),
            (s.healthy(poolers=(s.pooler(answers=False, trouble="refused"),)), "does not answer"),
            (s.healthy(poolers=(s.pooler(paused=("wms_read",)),)), "paused by someone else"),
            (s.healthy(poolers=(s.pooler(databases=("other",)),)), "has no database"),
        ],
    )
    def test_refuses(self, snapshot: Snapshot, reason: str) -> None:
        decision = plan.switchover(snapshot)
        assert isinstance(decision, Refusal)
        assert reason in decision.reason
        assert decision.hint

    def test_an_unfinished_operation_points_to_resume(self) -> None:
        decision = plan.switchover(s.healthy(unfinished=(Unfinished("x-1", "promote", "t"),)))
        assert isinstance(decision, Refusal)
        assert "wmsctl failover resume" in decision.hint

    @pytest.mark.parametrize(
        ("candidate", "reason"),
        [
            (s.dead("pg-2"), "connection refused"),
            (s.replica(state="starting"), "PostgreSQL is starting"),
            (s.replica(nofailover=True), "nofailover"),
            (s.replica(priority=0), "nofailover"),
            (s.replica(streaming=False), "does not stream"),
            (s.replica(timeline=4), "timeline 4"),
            (s.replica(sync_state="async"), "not a synchronous standby"),
            (s.replica(replay_paused=True), "replay is paused"),
            (s.replica(replay_lag=plan.LAG_LIMIT + 1), "lags"),
            (s.replica(flush_lag=plan.LAG_LIMIT + 1), "lags"),
        ],
    )
    def test_refuses_the_candidate(self, candidate: object, reason: str) -> None:
        decision = plan.switchover(s.healthy(candidate), "pg-2")  # type: ignore[arg-type]
        assert isinstance(decision, Refusal)
        assert reason in decision.reason

    def test_refuses_one_that_the_sync_key_does_not_list(self) -> None:
        store = s.store(sync=SyncView("pg-1", frozenset({"pg-3", "pg-4"}), 0))
        decision = plan.switchover(s.healthy(store=store), "pg-2")
        assert isinstance(decision, Refusal)
        assert "not a synchronous standby" in decision.reason

    def test_an_unfinished_rejoin_is_in_nobodys_way(self) -> None:
        snapshot = s.healthy(unfinished=(Unfinished("x-1", "rejoin", "t"),))
        assert isinstance(plan.switchover(snapshot), SwitchoverPlan)

    def test_lag_at_the_limit_is_allowed(self) -> None:
        assert isinstance(
            plan.switchover(s.healthy(s.replica(replay_lag=plan.LAG_LIMIT)), "pg-2"), SwitchoverPlan
        )

    def test_refuses_an_unknown_name_and_lists_the_known(self) -> None:
        decision = plan.switchover(s.healthy(), "pg-9")
        assert isinstance(decision, Refusal)
        assert "pg-1, pg-2, pg-3, pg-4" in decision.hint


class TestQuorum:
    def test_never_says_safe_when_a_commit_may_be_missing_and_never_refuses_without_need(self) -> None:
        """Against the definition: for n up to 5, each k, each reachable set, a commit may be on any k or more of
        the n; it is safe if every such set meets the reachable ones.
        """
        checked = 0
        for n in range(1, 6):
            voters = tuple(f"pg-{i}" for i in range(2, n + 2))
            for k in range(1, n + 1):
                confirmed = [c for c in subsets(voters) if len(c) >= k]
                for reachable in subsets(voters):
                    safe = all(c & reachable for c in confirmed)
                    said = plan.uncertainty(
                        SyncView("pg-1", frozenset(voters), n - k),
                        "pg-1",
                        [s.replica(name) for name in reachable],
                    )
                    assert (said == "") is safe, (n, k, sorted(reachable), said)
                    checked += 1
        assert checked > 200

    def test_the_most_advanced_of_a_safe_set_has_every_acknowledged_commit(self) -> None:
        """Every history of three commits on three replicas (each has a prefix of the WAL), two confirmations each:
        whenever the plan promotes, the chosen member has all that was acknowledged.
        """
        promoted = 0
        for prefixes in product(range(4), repeat=3):
            acknowledged = sum(1 for commit in (1, 2, 3) if sum(p >= commit for p in prefixes) >= 2)
            for reachable in subsets(s.REPLICAS):
                members = [
                    s.replica(name, received=s.LSN + p, replayed=s.LSN, streaming=False)
                    for name, p in zip(s.REPLICAS, prefixes, strict=True)
                    if name in reachable
                ]
                decision = plan.promote(s.lost(*members, reachable=tuple(reachable)), fence=True)
                if isinstance(decision, PromotePlan):
                    promoted += 1
                    assert prefixes[s.REPLICAS.index(decision.expected)] >= acknowledged
                else:
                    assert len(reachable) < 2
        assert promoted == 4**3 * 4  # every pair, and all three

    def test_members_outside_the_list_do_not_count(self) -> None:
        sync = SyncView("pg-1", frozenset({"pg-2"}), 0)
        assert plan.uncertainty(sync, "pg-1", [s.replica("pg-3"), s.replica("pg-4")])
        assert not plan.uncertainty(sync, "pg-1", [s.replica("pg-2")])

    def test_no_voters_means_only_the_leader_knows(self) -> None:
        assert "only pg-1 itself" in plan.uncertainty(SyncView("pg-1", frozenset(), 0), "pg-1", [s.replica()])

    def test_the_former_leader_counts_when_it_is_back_as_a_replica(self) -> None:
        assert not plan.uncertainty(SyncView("pg-1", frozenset(), 0), "", [s.replica("pg-1")])

    def test_the_state_of_another_leader_proves_nothing(self) -> None:
        doubt = plan.uncertainty(
            SyncView("pg-2", frozenset(s.REPLICAS), 1), "pg-1", [s.replica(n) for n in s.REPLICAS]
        )
        assert "of pg-2" in doubt

    def test_without_synchronous_mode_nothing_is_certain(self) -> None:
        assert plan.uncertainty(None, "pg-1", [s.replica(n) for n in s.REPLICAS])

    def test_names_are_compared_as_postgresql_does(self) -> None:
        sync = SyncView("PG-1", frozenset({"PG-2"}), 0)
        assert not plan.uncertainty(sync, "pg-1", [s.replica("pg-2")])


class TestPromote:
    def test_fences_and_ends_the_lease_that_was_seen(self) -> None:
        decision = plan.promote(s.lost(), fence=True)
        assert isinstance(decision, PromotePlan)
        assert (decision.dead, decision.expected, decision.revision) == ("pg-1", "pg-2", 4711)
        assert decision.fence and not decision.manual and decision.loss is None

    def test_without_fencing_it_waits(self) -> None:
        decision = plan.promote(s.lost())
        assert isinstance(decision, PromotePlan)
        assert "run out" in decision.steps[0]
        assert not any("fence" in step for step in decision.steps)

    def test_two_of_three_are_enough_and_one_is_not(self) -> None:
        assert isinstance(plan.promote(s.lost(reachable=("pg-3", "pg-4"))), PromotePlan)
        decision = plan.promote(s.lost(reachable=("pg-3",)))
        assert isinstance(decision, Refusal)
        assert "could be lost" in decision.reason and "missing: pg-2, pg-4" in decision.reason
        assert "--allow-data-loss" in decision.hint

    def test_the_most_advanced_is_expected_whatever_its_priority(self) -> None:
        decision = plan.promote(s.lost(s.replica("pg-4", received=s.LSN + 8, streaming=False)))
        assert isinstance(decision, PromotePlan)
        assert decision.expected == "pg-4"

    def test_a_preference_is_refused_unless_it_is_the_one(self) -> None:
        ahead = s.lost(s.replica("pg-4", received=s.LSN + 8, streaming=False))
        assert isinstance(plan.promote(ahead, "pg-4"), PromotePlan)
        behind = plan.promote(ahead, "pg-2")
        assert isinstance(behind, Refusal)
        assert "8 B behind pg-4" in behind.reason
        lower = plan.promote(s.lost(), "pg-3")
        assert isinstance(lower, Refusal)
        assert "failover_priority" in lower.reason

    def test_a_member_on_an_older_timeline_neither_votes_nor_runs(self) -> None:
        old = [
            s.replica(name, timeline=4, received=s.LSN + 10**6, streaming=False) for name in ("pg-2", "pg-3")
        ]
        decision = plan.promote(s.lost(*old))
        assert isinstance(decision, Refusal)
        assert "could be lost" in decision.reason

    def test_nofailover_members_do_not_count(self) -> None:
        tagged = [s.replica(name, nofailover=True, streaming=False) for name in ("pg-2", "pg-3")]
        assert isinstance(plan.promote(s.lost(*tagged)), Refusal)

    def test_data_loss_is_accepted_only_by_its_own_flag_and_named(self) -> None:
        behind = s.replica(
            "pg-3", received=s.LSN - 4096, replayed=s.LSN - 4096, streaming=False, heartbeat_age=7.0
        )
        decision = plan.promote(s.lost(behind, reachable=("pg-3",)), allow_data_loss=True)
        assert isinstance(decision, PromotePlan)
        assert decision.manual and decision.loss == plan.Loss(4096, 7.0)
        assert "4 kB" in str(decision.loss) and "7.0 s" in str(decision.loss)

    def test_the_flag_changes_nothing_when_nothing_can_be_lost(self) -> None:
        decision = plan.promote(s.lost(), allow_data_loss=True)
        assert isinstance(decision, PromotePlan)
        assert not decision.manual and decision.loss is None

    def test_no_leader_key_needs_no_deletion(self) -> None:
        decision = plan.promote(s.lost(store=s.store("")), fence=True)
        assert isinstance(decision, PromotePlan)
        assert decision.dead == "pg-1" and decision.revision is None

    def test_refuses_while_the_primary_is_healthy(self) -> None:
        decision = plan.promote(s.healthy())
        assert isinstance(decision, Refusal)
        assert "switchover" in decision.hint

    def test_fencing_does_not_override_a_healthy_primary(self) -> None:
        assert isinstance(plan.promote(s.healthy(), fence=True, allow_data_loss=True), Refusal)

    @pytest.mark.parametrize(
        "snapshot",
        [
            s.healthy(s.dead("pg-4")),
            s.healthy(last_promotion_age=30.0),
        ],
    )
    def test_is_content_when_patroni_was_faster(self, snapshot: Snapshot) -> None:
        assert isinstance(plan.promote(snapshot), AlreadySo)

    def test_an_unfinished_operation_does_not_stand_in_the_way_of_an_emergency(self) -> None:
        unfinished = (Unfinished("x-1", "switchover", "t"),)
        assert isinstance(plan.promote(s.lost(unfinished=unfinished), fence=True), PromotePlan)
        healthy = plan.promote(s.healthy(unfinished=unfinished))
        assert isinstance(healthy, Refusal) and "resume" in healthy.hint

    def test_an_old_promotion_is_not_the_answer_to_this_incident(self) -> None:
        assert isinstance(plan.promote(s.healthy(last_promotion_age=plan.RECENT_S + 1)), Refusal)

    def test_the_named_leader_is_already_so_and_another_needs_a_switchover(self) -> None:
        assert isinstance(plan.promote(s.healthy(), "pg-1"), AlreadySo)
        decision = plan.promote(s.healthy(), "pg-3")
        assert isinstance(decision, Refusal)
        assert "switchover --to pg-3" in decision.hint

    def test_an_agent_that_answers_is_left_to_patroni_unless_fenced(self) -> None:
        stopped = s.primary(state="stopped", role="replica", sql=False)
        snapshot = replace(s.lost(), members=(stopped, *s.lost().members[1:]))
        refused = plan.promote(snapshot)
        assert isinstance(refused, Refusal)
        assert "Patroni decides" in refused.reason
        assert isinstance(plan.promote(snapshot, fence=True), PromotePlan)

    def test_a_hanging_postgresql_under_a_live_agent_can_be_fenced(self) -> None:
        hanging = s.primary(sql=False)
        snapshot = replace(s.lost(), members=(hanging, *s.lost().members[1:]))
        assert isinstance(plan.promote(snapshot), Refusal)
        assert isinstance(plan.promote(snapshot, fence=True), PromotePlan)

    def test_a_second_primary_stops_everything(self) -> None:
        decision = plan.promote(s.lost(s.primary("pg-3")), fence=True)
        assert isinstance(decision, Refusal)
        assert "without holding the lease" in decision.reason

    @pytest.mark.parametrize(
        ("snapshot", "reason"),
        [
            (s.lost(paused=True), "paused"),
            (s.lost(store=StoreView(answers=False, trouble="no quorum")), "no certain answer"),
            (s.lost(reachable=()), "no reachable member"),
            (s.lost(power_control=False), "cannot be powered"),
            (s.lost(store=StoreView(leader=None, sync=None)), "nothing to fence"),
        ],
    )
    def test_refuses_even_with_every_flag(self, snapshot: Snapshot, reason: str) -> None:
        decision = plan.promote(snapshot, fence=True, allow_data_loss=True)
        assert isinstance(decision, Refusal)
        assert reason in decision.reason


class TestRejoin:
    promoted = s.healthy(
        s.dead("pg-1"), s.primary("pg-2"), store=s.store("pg-2"), powered_off=frozenset({"pg-1"})
    )

    def test_powers_a_fenced_node_on_when_another_leads(self) -> None:
        decision = plan.rejoin(self.promoted, "pg-1")
        assert isinstance(decision, RejoinPlan)
        assert decision.power_on and not decision.rebuild and decision.leader == "pg-2"

    def test_streaming_already(self) -> None:
        assert isinstance(plan.rejoin(s.healthy(), "pg-3"), AlreadySo)

    def test_a_rebuild_is_done_also_to_a_streaming_one(self) -> None:
        decision = plan.rejoin(s.healthy(), "pg-3", rebuild=True)
        assert isinstance(decision, RejoinPlan)
        assert decision.rebuild and "discarded" in decision.steps[0]

    def test_an_old_timeline_is_not_streaming(self) -> None:
        assert isinstance(plan.rejoin(s.healthy(s.replica("pg-3", timeline=4)), "pg-3"), RejoinPlan)

    @pytest.mark.parametrize(
        ("snapshot", "node", "reason"),
        [
            (replace(promoted, store=s.store("")), "pg-1", "no leader"),
            (s.healthy(), "pg-1", "is the leader"),
            (s.healthy(s.primary(sql=False, state="crashed")), "pg-3", "not well"),
            (replace(promoted, power_control=False), "pg-1", "cannot power it on"),
            (s.healthy(), "pg-7", "no PostgreSQL member"),
        ],
    )
    def test_refuses(self, snapshot: Snapshot, node: str, reason: str) -> None:
        decision = plan.rejoin(snapshot, node)
        assert isinstance(decision, Refusal)
        assert reason in decision.reason
