//! Walks a mount's way step by step and says what came of each: what is wrong, and how to mend it, without a pod.

mod login;
mod object;
mod reach;
mod traces;

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::SignedDuration;
use tokio::time::{Instant, timeout};

use crate::{
    error::Error,
    mount::{Answered, Mounted, Mounter, Way},
    request::MountSpec,
    vault::wire::SecretRequest,
};
use object::Found;
use traces::Traces;

/// A walk.
pub struct Check<'a> {
    /// What would do the mount.
    pub mounter: &'a Mounter,
    /// What the pod asks for.
    pub spec: &'a MountSpec,
    /// The audience of a class that names none.
    pub audience: &'a str,
    /// Whether requests are sent that create something.
    pub create: bool,
    /// Where the service account token is from, for a person.
    pub token_from: String,
    /// Why there is no service account token, if that is known.
    pub no_token: Option<Error>,
    /// How long one step may take.
    pub patience: Duration,
}

/// One step of the walk.
#[derive(Debug)]
pub struct Step {
    /// What was looked at: `address`, `TLS`, `health`, `token`, `login`, `object`, `files`, `clean-up`.
    pub name: &'static str,
    /// The object's file, if it was an object.
    pub object: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// What it took is counted with the next.
    pub at_once: bool,
}

/// What came of a step.
#[derive(Debug)]
pub enum Outcome {
    /// As it should be; what was done and what came back.
    Good(String),
    /// It works, and somebody should know this.
    Odd(String),
    /// Not done, and why.
    Skipped(String),
    /// It fails, as the mount would.
    Failed(Box<Error>),
}

impl Step {
    /// A step that is about no object.
    #[must_use]
    pub fn new(name: &'static str, outcome: Outcome) -> Self {
        Self { name, object: None, outcome, at_once: false }
    }

    fn at_once(self) -> Self {
        Self { at_once: true, ..self }
    }

    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Outcome::Good(detail.into()))
    }

    fn odd(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Outcome::Odd(detail.into()))
    }

    fn skipped(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Outcome::Skipped(detail.into()))
    }

    /// A step that fails, and is about no object.
    #[must_use]
    pub fn failed(name: &'static str, error: Error) -> Self {
        Self::new(name, Outcome::Failed(Box::new(error)))
    }
}

/// Why a walk ends early.
enum Stop {
    /// A step failed that all others need.
    Failed(Step),
    /// The person at the keyboard wants it to end.
    Interrupted,
}

impl From<Step> for Stop {
    fn from(step: Step) -> Self {
        Self::Failed(step)
    }
}

/// How long an interrupted walk waits for what it has asked.
const LAST_ANSWER: Duration = Duration::from_secs(2);

fn go_on(stopping: &AtomicBool) -> Result<(), Stop> {
    if stopping.load(Relaxed) { Err(Stop::Interrupted) } else { Ok(()) }
}

impl Check<'_> {
    /// Walks until a step fails that all others need, or until `interrupted`; then clears away what was made. Each step is
    /// told when it is done. `fits` says whether the driver would take the files. Whether it came to its end.
    pub async fn walk(
        &self,
        mut tell: impl FnMut(Step),
        fits: impl Fn(&Mounted) -> Result<(), Error>,
        interrupted: impl Future<Output = ()>,
    ) -> bool {
        let way = match self.mounter.way(self.spec, self.audience).await {
            Ok(way) => way,
            Err(error) => {
                let name = if error.cause().is_tls() { "TLS" } else { "address" };
                tell(Step::failed(name, error));
                tell(Step::skipped("the rest", "not reached"));
                return true;
            }
        };
        let mut traces = Traces::default();
        let stopping = AtomicBool::new(false);
        let outcome = {
            let mut asking = pin!(self.ask(&way, &mut tell, &fits, &mut traces, &stopping));
            tokio::select! {
                outcome = &mut asking => outcome,
                () = interrupted => {
                    stopping.store(true, Relaxed);
                    // What was sent may be answered yet, and is then known to be cleared away.
                    timeout(LAST_ANSWER, asking).await.unwrap_or(Err(Stop::Interrupted))
                }
            }
        };
        let finished = !matches!(outcome, Err(Stop::Interrupted));
        match outcome {
            Ok(()) => {}
            Err(Stop::Failed(step)) => {
                tell(step);
                tell(Step::skipped("the rest", "not reached"));
            }
            Err(Stop::Interrupted) => tell(Step::skipped("the rest", "interrupted")),
        }
        traces.note(&way);
        self.clear(&way, &traces, &mut tell).await;
        finished
    }

    async fn ask(
        &self,
        way: &Way,
        tell: &mut impl FnMut(Step),
        fits: impl Fn(&Mounted) -> Result<(), Error>,
        traces: &mut Traces,
        stopping: &AtomicBool,
    ) -> Result<(), Stop> {
        self.reach(way, tell).await?;
        tell(self.token()?);
        go_on(stopping)?;
        let opened = way.session.open(&way.prover, self.deadline()).await;
        traces.note(way);
        opened.map_err(|error| Step::failed("login", error))?;
        if let Some(token) = way.session.logged_in() {
            tell(self.login(way, &token));
        }
        let found = self.objects(way, tell, traces, stopping).await?;
        tell(self.files(way, &found, fits).await);
        Ok(())
    }

    /// What all files together show. Only what was read and could be made a file, or may be absent, is looked at.
    async fn files(
        &self,
        way: &Way,
        found: &HashMap<&SecretRequest, Found>,
        fits: impl Fn(&Mounted) -> Result<(), Error>,
    ) -> Step {
        let mut spec = self.spec.clone();
        let class = Arc::make_mut(&mut spec.class);
        class.objects.retain(|object| found.get(&*object.read).is_some_and(|found| found.makes_files(object)));
        let missing = self.spec.class.objects.len() - spec.class.objects.len();
        if spec.class.objects.is_empty() {
            return Step::skipped("files", "none was read");
        }
        let answers = spec.class.reads().into_iter().filter_map(|(read, objects)| {
            let outcome = match found.get(&**read)? {
                Found::Lease(lease) => Ok(Arc::clone(lease)),
                Found::Failed(error) => Err(error.clone()),
                Found::Skipped(_) => return None,
            };
            Some(Answered { read, objects, outcome })
        });
        let mounted = self.mounter.assemble(&spec, &way.session, answers.collect(), self.deadline()).await;
        match mounted.and_then(|mounted| fits(&mounted).map(|()| mounted)) {
            Err(error) => Step::failed("files", error),
            Ok(mounted) => {
                let bytes = mounted.files.iter().map(|file| file.contents.len()).sum::<usize>();
                let detail = format!("{} in all, {}", count(mounted.files.len(), "file"), count(bytes, "byte"));
                match missing {
                    0 => Step::good("files", detail),
                    _ => Step::good("files", format!("{detail}, without those of {}", count(missing, "object"))),
                }
            }
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }
}

/// `1 file`, `2 files`.
fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Seconds for a reader: `59m 3s`.
fn span(seconds: i64) -> String {
    format!("{:#}", SignedDuration::from_secs(seconds))
}
