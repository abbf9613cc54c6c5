//! Advice: which indexes would help the statements that were seen, proved one by one.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use tokio_postgres::Client;

use crate::{
    candidate,
    catalog::Table,
    error::{Error, Result},
    explain::{Summary, forget},
    observed::Statement,
    plan::{Index, Plan},
    prove::{Proof, Prover, estimate, plan, size},
    statement::{Parsed, TableUse},
};

/// What advice is limited to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Statements that are looked at, those with the most time first. Default 50, at most 500.
    pub statements_max: usize,
    /// Proposals. Default 5, at most 20.
    pub findings_max: usize,
    /// Smallest share of the time of all statements that a proposal must save, 0 to 1. Default 0.02.
    pub share_min: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            statements_max: 50,
            findings_max: 5,
            share_min: 0.02,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Proposals, the best first; each counts on those before it.
    pub findings: Vec<Finding>,
    /// How their gain is known.
    pub proof: Proof,
    /// Statements that were looked at.
    pub n_statements: usize,
    /// Statements that could not be looked at, by reason.
    pub skipped: Vec<Skipped>,
}

impl Advice {
    /// The proposals as a plan that can be applied.
    pub fn plan(&self) -> Plan {
        let indexes = self.findings.iter().map(|finding| finding.index.clone());
        Plan {
            indexes: indexes.collect(),
        }
    }
}

/// Statements that could not be looked at for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Why.
    pub reason: String,
    /// How many.
    pub n: usize,
    /// The first of them, at most 200 characters.
    pub example: String,
}

/// One index that would help.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The index.
    pub index: Index,
    /// The statement that creates it.
    pub sql: String,
    /// Time it would save of the observed time, milliseconds.
    pub saved_ms: f64,
    /// Share of the observed time of all statements that is, 0 to 1.
    pub saved_share: f64,
    /// Each statement it would help, with its cost before and after.
    pub evidence: Vec<Evidence>,
    /// Expected size, bytes.
    pub bytes: u64,
    /// What it would cost those who write.
    pub write_cost: WriteCost,
    /// An index that it makes superfluous.
    pub replaces: Option<String>,
    /// What else must be done for the gain.
    pub hint: Option<String>,
}

/// What an index does to one statement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// The statement.
    pub statement: String,
    /// How often it ran.
    pub calls: u64,
    /// Its mean time, milliseconds.
    pub mean_ms: f64,
    /// The mean time expected afterwards, milliseconds: the observed one in proportion to the cost.
    pub mean_ms_after: f64,
    /// The planner's cost before.
    pub cost_before: f64,
    /// The planner's cost with the index.
    pub cost_after: f64,
    /// How the table was read before, as in `Seq Scan`.
    pub scan_before: String,
    /// How it would be read; empty when the gain is estimated.
    pub scan_after: String,
}

/// What an index costs those who write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WriteCost {
    /// Rows inserted, updated and deleted a second, over the time the server has counted.
    pub rows_per_second: f64,
    /// Indexes that each written row keeps up already.
    pub indexes_before: usize,
    /// Index entries a written row costs, against before: 1.5 is half as many again.
    pub factor: f64,
}

/// Looks for indexes that would help `statements`, on a session of its own and not behind a transaction pooler. It
/// changes nothing: hypothetical indexes live in this session, and the transaction it works in is rolled back.
///
/// # Errors
/// The connection is lost, or a limit is out of its range. A statement that cannot be read or planned is counted in
/// [`Advice::skipped`].
///
/// # Cancel safety
/// A dropped call may leave a transaction open and hypothetical indexes in the session; close `client` then.
pub async fn advise(client: &Client, statements: &[Statement], limits: Limits) -> Result<Advice> {
    check(limits)?;
    // Planning follows the settings of the database; only parallel plans hide what an index is worth to a busy server.
    let begin = "BEGIN; SET LOCAL statement_timeout = '10s'; SET LOCAL max_parallel_workers_per_gather = 0";
    client
        .batch_execute(begin)
        .await
        .map_err(Error::database("beginning a transaction"))?;
    let advice = inside(client, statements, limits).await;
    client
        .batch_execute("ROLLBACK")
        .await
        .map_err(Error::database("ending a transaction"))?;
    forget(client).await?;
    advice
}

fn check(limits: Limits) -> Result<()> {
    let wrong = |text: String| Err(Error::Observed(text));
    if !(1..=500).contains(&limits.statements_max) {
        return wrong(format!(
            "statements_max is {}, allowed 1 to 500",
            limits.statements_max
        ));
    }
    if !(1..=20).contains(&limits.findings_max) {
        return wrong(format!(
            "findings_max is {}, allowed 1 to 20",
            limits.findings_max
        ));
    }
    if !(0.0..=1.0).contains(&limits.share_min) {
        return wrong(format!("share_min is {}, allowed 0 to 1", limits.share_min));
    }
    Ok(())
}

async fn inside(client: &Client, statements: &[Statement], limits: Limits) -> Result<Advice> {
    let prover = Prover::find(client).await?;
    // From here on nothing in this transaction can write, whatever a statement says.
    let read_only = client.batch_execute("SET LOCAL transaction_read_only = on").await;
    read_only.map_err(Error::database("preparing the transaction"))?;
    prover.clear(client).await?;
    let mut search = Search {
        client,
        prover,
        tables: Vec::new(),
        known: HashMap::new(),
        cases: Vec::new(),
        skipped: BTreeMap::new(),
        taken: Vec::new(),
    };
    let mut heaviest: Vec<&Statement> = statements.iter().collect();
    heaviest.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    heaviest.truncate(limits.statements_max);
    for statement in &heaviest {
        search.read(statement).await?;
    }
    let findings = search.find(limits).await;
    search.prover.clear(client).await?;
    let skipped = search.skipped.into_iter();
    Ok(Advice {
        findings: findings?,
        proof: search.prover.proof(),
        n_statements: heaviest.len(),
        skipped: skipped
            .map(|(reason, (n, example))| Skipped { reason, n, example })
            .collect(),
    })
}

/// A statement without a time still counts a little.
fn weight(statement: &Statement) -> f64 {
    statement.total_ms().max(statement.calls as f64 * 1e-3)
}

/// A statement that could be read and planned.
struct Case<'a> {
    statement: &'a Statement,
    /// The table of each use, by its place in [`Search::tables`].
    uses: Vec<(usize, TableUse)>,
    before: Summary,
    /// Its cost with the proposals so far.
    cost: f64,
}

struct Search<'a> {
    client: &'a Client,
    prover: Prover,
    tables: Vec<Table>,
    /// Names in statements and what they stand for.
    known: HashMap<String, Option<usize>>,
    cases: Vec<Case<'a>>,
    skipped: BTreeMap<String, (usize, String)>,
    /// Names given to proposals.
    taken: Vec<String>,
}

/// A proposal on trial.
struct Trial {
    table: usize,
    index: Index,
    /// What it saved when last tried; it can only become less.
    saved: f64,
}

/// What a trial came to.
struct Verdict {
    saved: f64,
    bytes: u64,
    /// By place in [`Search::cases`]: the cost with it and how it was planned.
    after: Vec<(usize, f64, Option<Summary>)>,
}

impl<'a> Search<'a> {
    /// Reads and plans a statement; one that cannot be is counted.
    async fn read(&mut self, statement: &'a Statement) -> Result<()> {
        let parsed = match Parsed::parse(&statement.sql) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.skip("it cannot be read", statement, &error);
                return Ok(());
            }
        };
        for name in parsed.tables() {
            self.table(name).await?;
        }
        let columns = |name: &str| {
            let table = &self.tables[(*self.known.get(name)?)?];
            Some(table.columns.iter().map(|column| column.name.clone()).collect())
        };
        let uses = parsed.uses(&columns).into_iter();
        let uses = uses.filter_map(|used| Some(((*self.known.get(&used.table)?)?, used)));
        let uses: Vec<(usize, TableUse)> = uses.collect();
        match plan(self.client, statement).await {
            Ok(before) if !uses.is_empty() => {
                let cost = before.cost;
                self.cases.push(Case {
                    statement,
                    uses,
                    before,
                    cost,
                });
            }
            Ok(_) => self.skip("it uses no table that can have an index", statement, &""),
            Err(error) if error.sqlstate().is_some() => self.skip("it cannot be planned", statement, &error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn table(&mut self, name: String) -> Result<()> {
        if self.known.contains_key(&name) {
            return Ok(());
        }
        let table = match Table::find(self.client, &name).await {
            Ok(table) => table,
            Err(error) => return Err(error),
        };
        // Catalogs and views of the system are not ours to index.
        let table =
            table.filter(|table| table.schema != "pg_catalog" && table.schema != "information_schema");
        let place = table.map(|table| {
            let same = self.tables.iter().position(|known| known.oid == table.oid);
            same.unwrap_or_else(|| {
                self.tables.push(table);
                self.tables.len() - 1
            })
        });
        self.known.insert(name, place);
        Ok(())
    }

    fn skip(&mut self, why: &str, statement: &Statement, error: &dyn ToString) {
        let detail = error.to_string();
        let reason = if detail.is_empty() {
            why.to_owned()
        } else {
            format!("{why}: {detail}")
        };
        let entry = self.skipped.entry(reason).or_default();
        entry.0 += 1;
        if entry.1.is_empty() {
            entry.1 = statement.sql.chars().take(200).collect();
        }
    }

    /// Takes the best proposal, keeps it in place, and looks again at what the others would still save.
    async fn find(&mut self, limits: Limits) -> Result<Vec<Finding>> {
        let total: f64 = self.cases.iter().map(|case| weight(case.statement)).sum();
        let least = (total * limits.share_min).max(f64::MIN_POSITIVE);
        let mut trials = self.trials();
        let mut findings = Vec::new();
        while findings.len() < limits.findings_max {
            let Some((place, verdict)) = self.best(&mut trials, least).await? else {
                break;
            };
            let trial = trials.swap_remove(place);
            let finding = self.accept(&trial, &verdict, total).await?;
            findings.push(finding);
        }
        Ok(findings)
    }

    fn trials(&self) -> Vec<Trial> {
        let mut trials = Vec::new();
        for (place, table) in self.tables.iter().enumerate() {
            let all = self.cases.iter().flat_map(|case| &case.uses);
            let uses: Vec<&TableUse> = all.filter(|(at, _)| *at == place).map(|(_, used)| used).collect();
            trials.extend(
                candidate::candidates(table, &uses)
                    .into_iter()
                    .map(|index| Trial {
                        table: place,
                        index,
                        saved: f64::INFINITY,
                    }),
            );
        }
        trials
    }

    /// The trial that saves the most; of near equals the smaller index.
    async fn best(&self, trials: &mut [Trial], least: f64) -> Result<Option<(usize, Verdict)>> {
        // What saved the most before is tried first: it spares the others their trial.
        trials.sort_by(|a, b| b.saved.total_cmp(&a.saved));
        let mut best: Option<(usize, Verdict)> = None;
        for (place, trial) in trials.iter_mut().enumerate() {
            // Near equals are tried too, for their size.
            let bar = best.as_ref().map_or(least, |(_, verdict)| verdict.saved * 0.95);
            if trial.saved < bar {
                continue;
            }
            let verdict = self.judge(trial).await?;
            trial.saved = verdict.saved;
            let is_better = match &best {
                None => verdict.saved >= least,
                Some((_, known)) if verdict.saved > known.saved * 1.05 => true,
                Some((_, known)) => verdict.saved >= known.saved * 0.95 && verdict.bytes < known.bytes,
            };
            if is_better {
                best = Some((place, verdict));
            }
        }
        Ok(best)
    }

    async fn judge(&self, trial: &Trial) -> Result<Verdict> {
        let table = &self.tables[trial.table];
        let mut verdict = Verdict {
            saved: 0.0,
            bytes: 0,
            after: Vec::new(),
        };
        let id = self.prover.put(self.client, &trial.index).await?;
        if id.is_none() && self.prover.proof() == Proof::Hypopg {
            return Ok(verdict);
        }
        verdict.bytes = size(table, &trial.index) as u64;
        for (place, case) in self.cases.iter().enumerate() {
            let of_table = case.uses.iter().filter(|(at, _)| *at == trial.table);
            let uses: Vec<&TableUse> = of_table.map(|(_, used)| used).collect();
            if uses.is_empty() {
                continue;
            }
            let (cost, summary) = match &self.prover {
                Prover::Hypopg(_) => {
                    let summary = plan(self.client, case.statement).await?;
                    (summary.cost, Some(summary))
                }
                Prover::Statistics => {
                    let costs = uses
                        .iter()
                        .map(|used| estimate(table, used, &trial.index, case.cost));
                    (costs.fold(case.cost, f64::min), None)
                }
            };
            if cost < case.cost * 0.99 {
                verdict.saved += weight(case.statement) * (case.cost - cost) / case.before.cost.max(1e-9);
                verdict.after.push((place, cost, summary));
            }
        }
        if let Some(id) = id {
            self.prover.take(self.client, id).await?;
        }
        Ok(verdict)
    }

    /// Leaves the hypothetical index in place for the trials to come.
    async fn accept(&mut self, trial: &Trial, verdict: &Verdict, total: f64) -> Result<Finding> {
        self.prover.put(self.client, &trial.index).await?;
        let mut evidence = Vec::new();
        for (place, cost, summary) in &verdict.after {
            let case = &mut self.cases[*place];
            evidence.push(case.evidence(*cost, summary.as_ref(), &self.tables[trial.table].name));
            case.cost = *cost;
        }
        let of_time = |a: &Evidence| a.calls as f64 * (a.mean_ms - a.mean_ms_after);
        evidence.sort_by(|a, b| of_time(b).total_cmp(&of_time(a)));
        let table = &self.tables[trial.table];
        let name = candidate::name(table, &trial.index, &self.taken);
        self.taken.push(name.clone());
        let index = Index {
            name,
            ..trial.index.clone()
        };
        let is_hidden = !index.include.is_empty() && table.visible < 0.5 && table.pages > 0.0;
        let hint = format!(
            "VACUUM {}: an index alone answers only for pages known to be visible to all",
            table.sql()
        );
        Ok(Finding {
            sql: index.sql(),
            saved_ms: verdict.saved,
            saved_share: verdict.saved / total.max(f64::MIN_POSITIVE),
            evidence,
            bytes: verdict.bytes,
            write_cost: write_cost(self.client, table).await?,
            replaces: candidate::replaced(table, &index).map(str::to_owned),
            hint: is_hidden.then_some(hint),
            index,
        })
    }
}

impl Case<'_> {
    fn evidence(&self, cost: f64, after: Option<&Summary>, table: &str) -> Evidence {
        let scan = |summary: &Summary| {
            let node = summary
                .nodes
                .iter()
                .find(|node| node.table.as_deref() == Some(table));
            node.map_or_else(String::new, |node| node.kind.clone())
        };
        let mean_ms = self.statement.mean_ms;
        let before = self.before.cost.max(1e-9);
        Evidence {
            statement: self.statement.sql.clone(),
            calls: self.statement.calls,
            mean_ms: mean_ms * self.cost / before,
            mean_ms_after: mean_ms * cost / before,
            cost_before: self.cost,
            cost_after: cost,
            scan_before: scan(&self.before),
            scan_after: after.map_or_else(String::new, scan),
        }
    }
}

async fn write_cost(client: &Client, table: &Table) -> Result<WriteCost> {
    let sql = "SELECT coalesce(sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del), 0)::float8
                      / greatest(extract(epoch FROM now() - (SELECT coalesce(stats_reset, pg_postmaster_start_time())
                        FROM pg_stat_database WHERE datname = current_database())), 1)::float8
               FROM pg_partition_tree($1::oid::regclass) t JOIN pg_stat_all_tables s ON s.relid = t.relid";
    let plain = "SELECT (n_tup_ins + n_tup_upd + n_tup_del)::float8
                        / greatest(extract(epoch FROM now() - (SELECT coalesce(stats_reset, pg_postmaster_start_time())
                          FROM pg_stat_database WHERE datname = current_database())), 1)::float8
                 FROM pg_stat_all_tables WHERE relid = $1";
    let sql = if table.is_partitioned { sql } else { plain };
    let row = client.query_opt(sql, &[&table.oid]).await;
    let row = row.map_err(Error::database("reading writes"))?;
    let indexes_before = table.indexes.len();
    Ok(WriteCost {
        rows_per_second: row.map_or(0.0, |row| row.get(0)),
        indexes_before,
        // The row itself counts as one place to write.
        factor: (indexes_before as f64 + 2.0) / (indexes_before as f64 + 1.0),
    })
}
