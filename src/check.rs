//! Walks a mount's way step by step and says what came of each: what is wrong, and how to mend it, without a pod.

mod object;

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::{
    error::{Cause, Error},
    lease::Lease,
    mount::{Answered, Mounted, Mounter, Way},
    request::{
        MountSpec,
        token::{self, Expected},
    },
    vault::{
        Address, Endpoint,
        client::{
            Token,
            inspect::{Health, State},
        },
        failure::Failure,
        wire::Read,
    },
};
use object::{Created, Found};

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
    Failed(Error),
}

/// Clocks that are further apart than this, in seconds, make tokens fail: the jwt method forgives 60 s or more.
const CLOCKS_APART: i64 = 60;

/// A certificate that ends so soon should have been renewed, in seconds.
const SOON: i64 = 14 * 24 * 3600;

impl Step {
    /// A step that is about no object.
    #[must_use]
    pub fn new(name: &'static str, outcome: Outcome) -> Self {
        Self { name, object: None, outcome }
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

    fn failed(name: &'static str, error: Error) -> Self {
        Self::new(name, Outcome::Failed(error))
    }
}

impl Check<'_> {
    /// Walks until a step fails that all others need, or until `interrupted`; then clears away what was made. Each step is
    /// told when it is done. `fits` says whether the driver would take the files. Whether it was not interrupted.
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
        let (mut created, mut finished) = (Vec::new(), true);
        tokio::select! {
            reached = self.ask(&way, &mut tell, &fits, &mut created) => if let Err(step) = reached {
                tell(step);
                tell(Step::skipped("the rest", "not reached"));
            },
            () = interrupted => {
                tell(Step::skipped("the rest", "interrupted"));
                finished = false;
            },
        }
        self.clear(&way, &created, &mut tell).await;
        finished
    }

    async fn ask(
        &self,
        way: &Way,
        tell: &mut impl FnMut(Step),
        fits: impl Fn(&Mounted) -> Result<(), Error>,
        created: &mut Vec<Created>,
    ) -> Result<(), Step> {
        self.reach(way, tell).await?;
        tell(self.token()?);
        let opened = way.session.open(&way.prover, self.deadline()).await;
        opened.map_err(|error| Step::failed("login", error))?;
        if let Some(token) = way.session.logged_in() {
            tell(self.login(way, &token));
        }
        let found = self.objects(way, tell, created).await;
        tell(self.files(way, &found, fits).await);
        Ok(())
    }

    /// Address, TLS and health: one request shows them all.
    async fn reach(&self, way: &Way, tell: &mut impl FnMut(Step)) -> Result<(), Step> {
        let endpoint = &way.target.endpoint;
        let from = if self.spec.choice.address.is_some() { "from the class" } else { "from flags or environment" };
        let address = Step::good("address", format!("{} ({from})", endpoint.address));
        let client = way.session.endpoint();
        let asked = client.health(self.deadline()).await;
        if let Err(failure) = &asked {
            let error = failure.of_transport(client.address());
            if is_about_tls(error.cause()) {
                tell(address);
                return Err(Step::failed("TLS", error));
            }
            if matches!(failure, Failure::Connect(_)) {
                return Err(Step::failed("address", error));
            }
        }
        tell(address);
        tell(secrecy(endpoint, client.certificate_end().await));
        match asked {
            Ok(health) => match health.problem(client.address()) {
                Some(problem) => return Err(Step::failed("health", problem)),
                None => tell(healthy(&health)),
            },
            Err(failure) => {
                let error = failure.of_transport(client.address());
                // A proxy before it may let logins pass and this not.
                if !matches!(failure, Failure::Refused(_)) || error.is_passing() {
                    return Err(Step::failed("health", error));
                }
                tell(Step::odd("health", format!("it does not tell: {}", error.what())));
            }
        }
        Ok(())
    }

    /// What the service account token says of itself.
    fn token(&self) -> Result<Step, Step> {
        let audience = self.spec.audience.as_deref().unwrap_or(self.audience);
        let pod = &self.spec.pod;
        if let Some(error) = &self.no_token {
            return Err(Step::failed("token", error.clone()));
        }
        let Some(jwt) = self.spec.tokens.for_audience(audience) else {
            let error =
                Error::new(Cause::TokenMissing, format!("there is no service account token for audience {audience:?}"));
            return Err(Step::failed(
                "token",
                error.advice(format!(
                    "give one with --token-file (kubectl create token {} -n {} --audience {audience}), or a --kubeconfig to \
                     request one",
                    pod.service_account, pod.namespace
                )),
            ));
        };
        let now = Timestamp::now();
        let claims = token::look(jwt, &Expected { audience: Some(audience), pod, now });
        let claims = claims.map_err(|error| Step::failed("token", self.by_hand(error, audience)))?;
        let Some(end) = claims.expires else {
            return Ok(Step::odd("token", format!("{}: no JWT, so it says nothing of itself", self.token_from)));
        };
        let of = format!("{}: of service account {}/{}", self.token_from, pod.namespace, pod.service_account);
        let audiences = claims.audiences.unwrap_or_default().join(", ");
        let left = span(end.as_second() - now.as_second());
        let begins = claims.begins.map_or(0, |begin| begin.as_second() - now.as_second());
        if begins > 0 {
            let (begins, id) = (span(begins), Cause::ClockSkew.id());
            let odd = format!(
                "{of}, for {audiences}; it begins in {begins}: this machine's clock or the API server's is wrong [{id}]"
            );
            return Ok(Step::odd("token", odd));
        }
        Ok(Step::good("token", format!("{of}, for {audiences}, valid for {left}")))
    }

    /// The error of a token that a person brought, and no driver.
    fn by_hand(&self, error: Error, audience: &str) -> Error {
        let pod = &self.spec.pod;
        let fresh = format!("kubectl create token {} -n {} --audience {audience}", pod.service_account, pod.namespace);
        match error.cause() {
            Cause::TokenIdentity => {
                error.advice(format!("set --namespace and --service-account to the pod's, or bring its token: {fresh}"))
            }
            Cause::TokenAudience => {
                error.advice(format!("bring one for it ({fresh}), or correct the class's audience"))
            }
            Cause::TokenExpired => error.advice(format!("bring a fresh one: {fresh}")),
            _ => error,
        }
    }

    fn login(&self, way: &Way, token: &Token) -> Step {
        let target = &way.target;
        let namespace = target.auth_namespace.as_ref().map(|name| format!(" in Vault namespace {name}"));
        let kind = if token.is_batch { "batch token" } else { "token" };
        let life = if token.ttl.is_zero() {
            "without end".to_owned()
        } else {
            format!("for {}", span(i64::try_from(token.ttl.as_secs()).unwrap_or(i64::MAX)))
        };
        let uses = if token.num_uses > 0 { format!(", {} uses", token.num_uses) } else { String::new() };
        let detail = format!(
            "auth/{}{}, role {:?}: policies {}; {kind} {life}{uses}",
            target.auth_mount,
            namespace.unwrap_or_default(),
            self.spec.role,
            token.policies.join(", ")
        );
        if token.policies.iter().any(|policy| policy == "root") {
            return Step::odd(
                "login",
                format!("{detail}; policy root allows everything, also to whoever has this pod"),
            );
        }
        Step::good("login", detail)
    }

    /// What all files together show. Only what was read and could be made a file is looked at.
    async fn files(
        &self,
        way: &Way,
        found: &HashMap<&Read, Found>,
        fits: impl Fn(&Mounted) -> Result<(), Error>,
    ) -> Step {
        let lease = |read: &Read| match found.get(read) {
            Some(Found::Lease(lease)) => Some(Arc::clone(lease)),
            _ => None,
        };
        let mut spec = self.spec.clone();
        spec.objects.retain(|object| lease(&object.read).is_some_and(|lease| object::renders(object, &lease)));
        let missing = self.spec.objects.len() - spec.objects.len();
        if spec.objects.is_empty() {
            return Step::skipped("files", "none was read");
        }
        let answers = spec.reads().into_iter().filter_map(|(read, objects)| {
            let lease: Arc<Lease> = lease(read)?;
            Some(Answered { read, objects, outcome: Ok(lease) })
        });
        let mounted = self.mounter.assemble(&spec, &way.session, answers.collect(), self.deadline()).await;
        match mounted.and_then(|mounted| fits(&mounted).map(|()| mounted)) {
            Err(error) => Step::failed("files", error),
            Ok(mounted) => {
                let bytes = mounted.files.iter().map(|file| file.contents.len()).sum::<usize>();
                let detail = format!("{} in all, {bytes} bytes", count(mounted.files.len(), "file"));
                match missing {
                    0 => Step::good("files", detail),
                    _ => Step::good("files", format!("{detail}, without those of {}", count(missing, "object"))),
                }
            }
        }
    }

    /// Revokes the token, and names what does not end with it.
    async fn clear(&self, way: &Way, created: &[Created], tell: &mut impl FnMut(Step)) {
        let leased = created.iter().filter(|c| c.is_leased).count();
        let with = if leased > 0 { format!(", and with it {}", count(leased, "lease")) } else { String::new() };
        if let Some(token) = way.session.logged_in() {
            let life = span(i64::try_from(token.ttl.as_secs()).unwrap_or(i64::MAX));
            tell(match way.session.revoke(&token, self.deadline()).await {
                Ok(()) => Step::good("clean-up", format!("token revoked{with}")),
                Err(_) if token.is_batch => {
                    Step::odd("clean-up", format!("a batch token cannot be revoked; it ends within {life}{with}"))
                }
                Err(error) => Step::odd(
                    "clean-up",
                    format!("the token could not be revoked; it ends within {life}{with}: {}", error.what()),
                ),
            });
        }
        for left in created.iter().filter(|c| !c.is_leased) {
            tell(Step::odd("left behind", left.name.clone()));
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }
}

/// Who can read along, and how long the certificate still says nobody.
fn secrecy(endpoint: &Endpoint, end: Option<Timestamp>) -> Step {
    match &endpoint.address {
        Address::Unix(_) => Step::skipped("TLS", "a unix socket"),
        Address::Tcp { https: false, .. } => {
            Step::odd("TLS", "http: whoever sits between reads the token and every secret")
        }
        Address::Tcp { .. } if endpoint.tls.skip_verify => {
            Step::odd("TLS", "the certificate is not verified: whoever sits between reads every secret")
        }
        Address::Tcp { .. } => {
            let trusted = "the certificate is trusted, and for this name";
            let left = end.map(|end| (end, end.as_second() - Timestamp::now().as_second()));
            match left {
                Some((end, left)) if left < SOON => {
                    Step::odd("TLS", format!("{trusted}, but only until {end}, which is in {}", span(left)))
                }
                Some((end, _)) => Step::good("TLS", format!("{trusted}, until {end}")),
                None => Step::good("TLS", trusted),
            }
        }
    }
}

fn healthy(health: &Health) -> Step {
    let role = if health.state == State::Standby { "standby" } else { "active" };
    let state = format!("unsealed, {role}, version {}", health.version);
    let Some(apart) = health.clock.map(|theirs| theirs - Timestamp::now().as_second()) else {
        return Step::good("health", state);
    };
    if apart.abs() <= CLOCKS_APART {
        return Step::good("health", format!("{state}; the clocks agree"));
    }
    let (apart, way) = (apart.abs(), if apart > 0 { "ahead of" } else { "behind" });
    let id = Cause::ClockSkew.id();
    Step::odd(
        "health",
        format!("{state}; its clock is {apart} s {way} this machine's, and tokens may fail for it [{id}]"),
    )
}

fn is_about_tls(cause: Cause) -> bool {
    cause.is_tls() || matches!(cause, Cause::PlainToTls | Cause::TlsToPlain)
}

/// `1 file`, `2 files`.
fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Seconds for a reader: `59m 3s`.
fn span(seconds: i64) -> String {
    format!("{:#}", SignedDuration::from_secs(seconds))
}
