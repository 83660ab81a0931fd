//! Every row of the table of error causes: the mount error and the output of `vaultmount check`.
//!
//! A row without a test does not compile.

mod case;
mod class;
mod connecting;
mod kubernetes;
mod login;
mod reads;
mod rendering;
mod server_state;

use serde_json::json;
use vaultmount::error::Cause;

use crate::support::{bao::Tenant, pod::Pod};
use case::{Case, LogCase, ManifestCase, MountCase};

/// Generates a test per scenario, and checks that every cause has one.
macro_rules! cause_tests {
    ($($place:ident { $($cause:ident $test:ident)* })* @elsewhere { $($other:ident $file:literal $name:literal)* }) => {
        $($(
            #[tokio::test]
            async fn $test() {
                $place::$test().await.assert_reported(Cause::$cause).await;
            }
        )*)*

        #[allow(dead_code, reason = "that it compiles is the test")]
        fn every_cause_has_a_test(cause: Cause) {
            match cause {
                $($(Cause::$cause => {})*)*
                $(Cause::$other => {})*
            }
        }

        #[test]
        fn causes_without_a_mount_test_are_tested_elsewhere() {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            $(
                let text = std::fs::read_to_string(root.join($file)).unwrap();
                assert!(text.contains(concat!("fn ", $name, "(")) && text.contains(stringify!($other)));
            )*
        }
    };
}

cause_tests! {
    connecting {
        ConnectionRefused connection_refused
        ConnectTimeout connect_timeout
        NameNotFound name_not_found
        Unreachable unreachable
        CertificateUntrusted certificate_untrusted
        CertificateName certificate_name
        CertificateTime certificate_time
        PlainToTls plain_to_tls
        TlsToPlain tls_to_plain
        TlsSetup tls_setup
        NotVault not_vault
        Redirect redirect
        AddressNotAllowed address_not_allowed
        SkipVerifyNotAllowed skip_verify_not_allowed
        TenantPolicyViolation tenant_policy_violation
        EndpointUnknown endpoint_unknown
    }
    server_state {
        Sealed sealed
        Uninitialized uninitialized
        NoLeader no_leader
        Throttled throttled
        ServerError server_fault
        DeadlineExceeded deadline_exceeded
        OutcomeUnknown outcome_unknown
        ResponseTooLarge answer_too_large
        ProviderAtCapacity provider_at_capacity
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
        TokenUsesTooFew token_uses_too_few
        LoginRoleUnusable login_role_unusable
    }
    reads {
        VaultPolicyDenied vault_policy_denied
        SecretMissing secret_missing
        VersionDeleted version_deleted
        Kv2Path kv2_path
        Kv1Path kv1_path
        EngineMissing engine_missing
        EngineRoleMissing engine_role_missing
        BackendDown backend_down
        MethodNotAllowed method_not_allowed
        ArgumentNotAllowed argument_refused
        RequestRejected read_refused
        NoData no_data
        EngineSetup engine_setup
    }
    rendering {
        KeyMissing key_missing
        KeyNested key_nested
        RenderFailed render_failed
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
        EventsForbidden "tests/integration/events.rs" "events_forbidden_is_logged_once_and_not_retried"
        PodsForbidden "tests/kube/pods.rs" "pods_forbidden_error_names_rbac_rule"
        PodEnded "tests/integration/lifetimes/revocation.rs" "pod_deleted_during_first_mount_is_revoked"
        TokenSharingNotAllowed "tests/integration/lifetimes/sharing.rs" "allow_shared_token_gates_token_scoped_objects"
        AllRevoked "tests/integration/lifetimes/revocation.rs" "revoke_all_revokes_everything_and_disables_mounts"
        ProcessSuperseded "tests/integration/restarts/handover.rs" "drain_timeout_exceeded_in_handover_rejects_mount"
        Internal "src/mount/serve.rs" "panic_fails_its_mount_and_no_other"
    }
}

/// Part of every secret value, so that one search finds all of them.
const SECRET_MARK: &str = "XMARKEDX";

/// Creates a tenant with secret `db`, which has the keys `pass` and `user`, and a pod of it.
async fn fixture() -> (Tenant, Pod) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": SECRET_MARK, "user": format!("{SECRET_MARK}-user")})).await;
    let pod =
        Pod::for_tenant(&tenant).with_objects(single_object(&format!("{}/data/db", tenant.kv), ", secretKey: pass"));
    (tenant, pod)
}

/// Returns the `objects` text with one object, `x`.
fn single_object(path: &str, more: &str) -> String {
    format!("- {{objectName: x, secretPath: '{path}'{more}}}")
}
