//! Groups lines by what was measured, by contender (a peer or a version of vcycle) and by round.

use super::line::{self, Line};
use crate::bail;
use crate::bench::stats::Summary;
use crate::error::Result;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// What was measured, by any contender.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Name of the subject, for instance `gemm`.
    pub bench: String,
    /// Name or sizes of the shape.
    pub shape: String,
    /// Name of the case; none for a step.
    pub case: Option<String>,
    /// Where it ran.
    pub setting: Setting,
}

/// The device, threads and precision of a measurement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setting {
    /// Name of the device.
    pub device: String,
    /// Threads of the host; `None` on a GPU, where they do not matter.
    pub threads: Option<u64>,
    /// `f32`, `bf16` or `f64`.
    pub precision: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.bench, self.shape)?;
        self.case.iter().try_for_each(|case| write!(f, " {case}"))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.device)?;
        match self.threads {
            Some(1) => write!(f, "1 thread, ")?,
            Some(n) => write!(f, "{n} threads, ")?,
            None => {}
        }
        write!(f, "{}", self.precision)
    }
}

impl Subject {
    fn of(line: &Line) -> Self {
        let setting = Setting {
            device: line.device.clone(),
            threads: (line.device != "cuda").then_some(line.threads),
            precision: line.precision.clone().unwrap_or_default(),
        };
        Subject { bench: line.bench.clone(), shape: line.shape.clone(), case: line.case.clone(), setting }
    }
}

/// The contender: a peer, or a version of vcycle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// Name without the precision.
    pub peer: String,
    /// Kernel variant.
    pub variant: Option<String>,
    /// Label of the version.
    pub label: Option<String>,
    /// Whether it is vcycle.
    pub ours: bool,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer)?;
        self.variant.iter().try_for_each(|variant| write!(f, " {variant}"))?;
        self.label.iter().try_for_each(|label| write!(f, " ({label})"))
    }
}

impl Who {
    /// Returns the name without the label, for a column that may hold several labels.
    pub fn unlabelled(&self) -> String {
        Who { label: None, ..self.clone() }.to_string()
    }
}

/// All rounds of one contender.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Who it is.
    pub who: Who,
    /// Lines by round number and repetition: a number that appears again, as in a second series, is another round.
    rounds: BTreeMap<(u64, usize), Line>,
}

/// Ratios of the times of two contenders, round by round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median ratio.
    pub median: f64,
    /// The smallest ratio.
    pub least: f64,
    /// The largest ratio.
    pub most: f64,
    /// Number of rounds that both have.
    pub rounds: usize,
}

const MIB: f64 = 1_048_576.0;
/// Bytes that training in f32 needs for every parameter: value, gradient and two moments.
const BYTES_OF_PARAMETER: f64 = 16.0;

impl Contender {
    fn add(&mut self, line: Line) {
        let number = line.round.unwrap_or(self.rounds.len() as u64 + 1);
        let times = self.rounds.range((number, 0)..=(number, usize::MAX)).count();
        self.rounds.insert((number, times), line);
    }

    /// Returns the lines of all rounds.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.rounds.values()
    }

    /// Summarizes the rounds' medians, in milliseconds.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.lines().map(|line| line.ms_median).collect::<Vec<_>>())
    }

    /// Returns the median of a value over the rounds that have it.
    pub fn median(&self, what: impl Fn(&Line) -> Option<f64>) -> Option<f64> {
        Some(Summary::of(&self.lines().filter_map(what).collect::<Vec<_>>())?.median)
    }

    /// Returns the ratios of the times to those of `other`, over the rounds that both have; `None` if there are none.
    pub fn over(&self, other: &Contender) -> Option<Ratio> {
        let pairs = self.rounds.iter().filter_map(|(number, line)| Some((line, other.rounds.get(number)?)));
        let all: Vec<f64> = pairs.map(|(a, b)| a.ms_median / b.ms_median).collect();
        let summary = Summary::of(&all)?;
        let most = all.iter().copied().fold(summary.best, f64::max);
        Some(Ratio { median: summary.median, least: summary.best, most, rounds: summary.runs })
    }

    /// Returns peak memory minus memory at the start in MiB, and the same minus the memory of the parameters. On a GPU
    /// this is host memory, so the second value is `None`.
    pub fn memory(&self) -> (Option<f64>, Option<f64>) {
        let grown = |line: &Line| Some(line.rss_mb? - line.rss_at_start_mb?);
        let less = |line: &Line| match line.device.as_str() {
            "cuda" => None,
            _ => Some(grown(line)? - BYTES_OF_PARAMETER * line.params? / MIB),
        };
        (self.median(grown), self.median(less))
    }

    /// Returns the milliseconds per step by kind of operation, each the median over the rounds.
    pub fn operations(&self) -> Vec<(String, f64)> {
        let mut all: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
        for (name, &ms) in self.lines().filter_map(|line| line.ms_by_operation.as_ref()).flatten() {
            all.entry(name).or_default().push(ms);
        }
        all.into_iter().filter_map(|(name, ms)| Some((name.clone(), Summary::of(&ms)?.median))).collect()
    }

    /// Returns whether the times are meaningful; those of the emulator are not.
    pub fn is_timed(&self) -> bool {
        !self.lines().any(|line| line.times_mean_nothing)
    }
}

/// All contenders that measured one subject.
#[derive(Clone, Debug)]
pub struct Case {
    /// What was measured.
    pub subject: Subject,
    /// Versions of vcycle in the order of the files.
    pub ours: Vec<Contender>,
    /// Peers in the order of the files.
    pub peers: Vec<Contender>,
}

impl Case {
    /// Returns all contenders, those of vcycle first.
    pub fn contenders(&self) -> impl Iterator<Item = &Contender> {
        self.ours.iter().chain(&self.peers)
    }

    /// Returns the measurements of a peer to compare `ours` with: those with the same label if there are any, else
    /// those without a label.
    pub fn rival(&self, ours: &Contender, peer: &str) -> Option<&Contender> {
        let labelled =
            |label: &Option<String>| self.peers.iter().find(|c| c.who.unlabelled() == peer && c.who.label == *label);
        labelled(&ours.who.label).or_else(|| labelled(&None))
    }
}

/// Largest number of lines in a report.
const MOST_LINES: usize = 20_000;
/// Largest number of peers in a report.
const MOST_PEERS: usize = 32;

/// Reads files, each once, and groups their lines.
///
/// # Errors
/// As for [`line::read`], and if there are more lines or peers than a report can hold.
pub fn gather(paths: &[PathBuf]) -> Result<Vec<Case>> {
    let mut seen = HashSet::new();
    let paths: Vec<&PathBuf> =
        paths.iter().filter(|path| path.canonicalize().map_or(true, |whole| seen.insert(whole))).collect();
    let mut all: Vec<(usize, Line)> = Vec::new();
    for (file, path) in paths.iter().enumerate() {
        all.extend(line::read(path)?.into_iter().map(|line| (file, line)));
        if all.len() > MOST_LINES {
            bail!(
                "{} and the files before it hold more than {MOST_LINES} lines; report on fewer at once",
                path.display()
            );
        }
    }
    if hold_versions(&all) {
        for (file, line) in all.iter_mut().filter(|(_, line)| line.is_ours() && line.label.is_none()) {
            line.label = Some(name(&paths, *file));
        }
    }
    let cases = sorted(all.into_iter().map(|(_, line)| line));
    let peers: HashSet<String> = cases.iter().flat_map(|case| &case.peers).map(|peer| peer.who.unlabelled()).collect();
    if peers.len() > MOST_PEERS {
        bail!("{} peers are too many for a table; report on at most {MOST_PEERS} at once", peers.len());
    }
    Ok(cases)
}

/// Returns whether several files hold unlabelled measurements by vcycle of the same case and variant.
fn hold_versions(lines: &[(usize, Line)]) -> bool {
    let mut first: HashMap<(Subject, &Option<String>), usize> = HashMap::new();
    let unlabelled = lines.iter().filter(|(_, line)| line.is_ours() && line.label.is_none());
    unlabelled
        .into_iter()
        .any(|(file, line)| *first.entry((Subject::of(line), &line.variant)).or_insert(*file) != *file)
}

/// Returns the stem of a file name, or the path without extension if another file has the same stem.
fn name(paths: &[&PathBuf], file: usize) -> String {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let own = stem(paths[file]);
    match paths.iter().filter(|path| stem(path) == own).count() {
        1 => own,
        _ => paths[file].with_extension("").to_string_lossy().into_owned(),
    }
}

fn sorted(lines: impl Iterator<Item = Line>) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut places: HashMap<Subject, usize> = HashMap::new();
    let mut contenders: HashMap<(usize, Who), usize> = HashMap::new();
    for line in lines {
        let subject = Subject::of(&line);
        let place = *places.entry(subject.clone()).or_insert(cases.len());
        if place == cases.len() {
            cases.push(Case { subject, ours: Vec::new(), peers: Vec::new() });
        }
        let ours = line.is_ours();
        let peer = line.who().to_string();
        let who = Who { peer, variant: line.variant.clone(), label: line.label.clone(), ours };
        let side = if ours { &mut cases[place].ours } else { &mut cases[place].peers };
        let at = *contenders.entry((place, who.clone())).or_insert(side.len());
        if at == side.len() {
            side.push(Contender { who, rounds: BTreeMap::new() });
        }
        side[at].add(line);
    }
    cases
}
