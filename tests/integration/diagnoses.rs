//! Every row of the table of causes, made to happen: what a mount then says, and what `vaultmount check` says.
//!
//! A row without a test does not compile.

mod class;
mod files;
mod kubernetes;
mod login;
mod reaching;
mod reading;
mod scenario;
mod state;

use serde_json::json;
use vaultmount::error::Cause;

use crate::support::{bao::Tenant, pod::Pod};
use scenario::{Logged, Manifest, Proof, Scenario};

/// Makes a test of each scenario, and holds that every cause has one.
macro_rules! rows {
    ($($place:ident { $($cause:ident $test:ident)* })* @elsewhere { $($other:ident $file:literal $name:literal)* }) => {
        $($(
            #[tokio::test]
            async fn $test() {
                $place::$test().await.prove(Cause::$cause).await;
            }
        )*)*

        #[allow(dead_code, reason = "that it compiles is the test")]
        fn every_row_has_a_test(cause: Cause) {
            match cause {
                $($(Cause::$cause => {})*)*
                $(Cause::$other => {})*
            }
        }

        #[test]
        fn rows_that_no_mount_shows_are_tested_elsewhere() {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            $(
                let text = std::fs::read_to_string(root.join($file)).unwrap();
                assert!(text.contains(concat!("fn ", $name, "(")) && text.contains(stringify!($other)));
            )*
        }
    };
}

rows! {
    reaching {
        Refused refused
        ConnectTimeout connect_timeout
        NameNotFound name_not_found
        Unreachable unreachable
        CertificateUntrusted certificate_untrusted
        CertificateName certificate_name
        CertificateTime certificate_time
        PlainToTls plain_to_tls
        TlsToPlain tls_to_plain
        Tls tls
        NotVault not_vault
        Redirect redirect
        NotAllowed not_allowed
        MustVerify must_verify
        NotPermitted not_permitted
        EndpointUnknown endpoint_unknown
    }
    state {
        Sealed sealed
        Uninitialized uninitialized
        NoLeader no_leader
        Busy busy
        ServerFault server_fault
        Deadline deadline
        Unconfirmed unconfirmed
        AnswerTooLarge answer_too_large
        Overloaded overloaded
    }
    login {
        TokenMissing token_missing
        TokenExpired token_expired
        ClockSkew clock_skew
        TokenAudience token_audience
        TokenIdentity token_identity
        AuthMountMissing auth_mount_missing
        AuthUnconfigured auth_unconfigured
        LoginDenied login_denied
        RoleMissing role_missing
        AudienceUnbound audience_unbound
        AudienceWrong audience_wrong
        NamespaceNotBound namespace_not_bound
        ServiceAccountNotBound service_account_not_bound
        TokenSignature token_signature
        LoginClaims login_claims
        VaultNamespaceMissing vault_namespace_missing
        VaultNamespaceLocked vault_namespace_locked
        TokenUses token_uses
        LoginRole login_role
    }
    reading {
        Denied denied
        SecretMissing secret_missing
        VersionDeleted version_deleted
        Kv2Path kv2_path
        Kv1Path kv1_path
        EngineMissing engine_missing
        EngineRoleMissing engine_role_missing
        BackendDown backend_down
        Method method
        ArgumentRefused argument_refused
        ReadRefused read_refused
        NoData no_data
        EngineSetup engine_setup
    }
    files {
        KeyMissing key_missing
        KeyNested key_nested
        Render render
        DuplicateFile duplicate_file
        UnsafeName unsafe_name
        FilesTooLarge files_too_large
    }
    class {
        InvalidRequest invalid_request
        ObjectsYaml objects_yaml
        UnknownName unknown_name
        SecretObject secret_object
        PodOverride pod_override
        Manifest manifest
    }
    kubernetes {
        KubernetesApi kubernetes_api
        KubernetesConfig kubernetes_config
        TokenRequest token_request
        VersionKey version_key
    }
    @elsewhere {
        EventsForbidden "tests/integration/events.rs" "who_may_not_write_events_is_told_so_once"
        PodsForbidden "tests/kube/pods.rs" "denied_names_the_rule_to_grant"
        PodEnded "tests/integration/lifetimes/ends.rs" "a_pod_that_ends_during_its_first_mount_leaves_nothing_behind"
        TokenShared "tests/integration/lifetimes/sharing.rs" "what_is_a_tokens_own_is_not_shared_unless_the_operator_allows"
        Closed "tests/integration/lifetimes/ends.rs" "revoking_all_leaves_nothing_and_refuses_mounts"
        Replaced "tests/integration/restarts/takeover.rs" "a_mount_that_outlasts_the_handover_is_not_given_what_nobody_would_know"
        Internal "src/provider.rs" "a_panic_ends_its_call_and_no_other"
    }
}

/// Marks every secret, so that one look finds any of them.
const MARK: &str = "XMARKEDX";

/// A tenant whose secret `db` has the keys `pass` and `user`, and a pod of it.
async fn arranged() -> (Tenant, Pod) {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": MARK, "user": format!("{MARK}-user")})).await;
    let pod = Pod::of(&tenant).objects(one(&format!("{}/data/db", tenant.kv), ", secretKey: pass"));
    (tenant, pod)
}

/// The class of one object, `x`.
fn one(path: &str, more: &str) -> String {
    format!("- {{objectName: x, secretPath: '{path}'{more}}}")
}
