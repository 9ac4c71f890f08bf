//! Cases of the catalogue's port.

use std::{sync::Arc, time::Duration};

use super::{
    Home,
    sample::{at, full_options, step},
};
use crate::{
    ApplicationPath, Mode, Pipeline, PipelineNumber, PipelinePath, PipelineSpec, Revision,
    TaskOptions,
    pipeline::limits::{Limit, Limits, Rate},
    port::{
        Catalog,
        catalog::{Application, CatalogVersion, Change, Changed},
    },
};

type At<'a> = &'a dyn Home<dyn Catalog>;

fn path(pipeline: &str) -> PipelinePath {
    crate::path("acme", "shop", pipeline).unwrap()
}

fn application(tenant: &str) -> ApplicationPath {
    crate::path(tenant, "shop", "any")
        .unwrap()
        .application_path()
}

fn spec(n_partitions: u16) -> PipelineSpec {
    PipelineSpec {
        steps: [].into(),
        defaults: TaskOptions::default(),
        n_partitions,
        ..PipelineSpec::default()
    }
}

fn full_spec() -> PipelineSpec {
    let mut defaults = full_options();
    defaults.run_at = None;
    defaults.idempotency_key = None;
    defaults.key = None;
    defaults.expires_at = None;
    let limit = |n| Limit {
        concurrency: Some(n),
        rate: Some(Rate {
            n: 7,
            per: Duration::from_millis(1_500),
        }),
    };
    PipelineSpec {
        steps: [step(), step()].into(),
        defaults,
        limits: Limits {
            all: limit(9),
            group: limit(2),
        },
        pool: Some("gpus".try_into().unwrap()),
        n_partitions: 3,
    }
}

fn create(path: PipelinePath, spec: PipelineSpec) -> Change {
    let at = at(1);
    Change::CreatePipeline { path, spec, at }
}

async fn done(catalog: &dyn Catalog, change: Change) -> CatalogVersion {
    match catalog.change(change).await.unwrap() {
        Changed::Done(version) => version,
        refused => panic!("a change was refused: {refused:?}"),
    }
}

async fn refused(catalog: &dyn Catalog, change: Change) -> Changed {
    let before = catalog.snapshot().await.unwrap();
    let changed = catalog.change(change).await.unwrap();
    let after = catalog.snapshot().await.unwrap();
    assert_eq!(after, before, "a refused change changes nothing");
    changed
}

async fn only_pipeline(catalog: &dyn Catalog) -> Pipeline {
    let mut pipelines = catalog.snapshot().await.unwrap().pipelines;
    assert_eq!(pipelines.len(), 1);
    pipelines.remove(0)
}

/// Nothing is in it, and its version is the lowest.
pub async fn an_empty_catalogue_is_empty(home: At<'_>) {
    let snapshot = home.open().await.snapshot().await.unwrap();
    assert_eq!(
        (snapshot.applications, snapshot.pipelines),
        (vec![], vec![])
    );
    assert_eq!(snapshot.version, CatalogVersion::default());
}

/// With its path, its time and revision 1.
pub async fn a_created_application_is_in_the_snapshot(home: At<'_>) {
    let catalog = home.open().await;
    let path = application("acme");
    let change = Change::CreateApplication {
        path: path.clone(),
        at: at(4),
    };
    done(&*catalog, change).await;
    let expected = Application {
        path: path.clone(),
        revision: Revision(1),
        created_at: at(4),
    };
    let snapshot = catalog.snapshot().await.unwrap();
    assert_eq!(snapshot.applications, [expected]);
    done(&*catalog, Change::DeleteApplication { path }).await;
    assert_eq!(catalog.snapshot().await.unwrap().applications, []);
}

/// Steps, defaults, partitions and all.
pub async fn a_created_pipeline_is_in_the_snapshot_as_it_was_given(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), full_spec())).await;
    let found = only_pipeline(&*catalog).await;
    let expected = Pipeline {
        number: found.number,
        path: path("ocr"),
        revision: Revision(1),
        spec: full_spec(),
        mode: Mode::Active,
        created_at: at(1),
    };
    assert_eq!(found, expected);
}

/// A missing application is created with the pipeline, one that is there stays.
pub async fn a_pipeline_brings_its_application(home: At<'_>) {
    let catalog = home.open().await;
    for name in ["a", "b"] {
        done(&*catalog, create(path(name), spec(1))).await;
        let applications = catalog.snapshot().await.unwrap().applications;
        let paths: Vec<_> = applications.into_iter().map(|found| found.path).collect();
        assert_eq!(paths, [application("acme")]);
    }
}

/// Neither a pipeline nor an application.
pub async fn what_exists_is_not_created_again(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), spec(1))).await;
    let again = refused(&*catalog, create(path("ocr"), spec(2))).await;
    assert_eq!(again, Changed::Exists);
    let (path, at) = (application("acme"), at(2));
    let again = refused(&*catalog, Change::CreateApplication { path, at }).await;
    assert_eq!(again, Changed::Exists);
}

/// Neither a pipeline nor an application.
pub async fn what_is_missing_is_neither_changed_nor_deleted(home: At<'_>) {
    let catalog = home.open().await;
    let update = Change::UpdatePipeline {
        path: path("ocr"),
        expected: Revision(1),
        spec: spec(1),
    };
    let delete = Change::DeletePipeline {
        path: path("ocr"),
        number: PipelineNumber(1),
    };
    let path = application("acme");
    for change in [update, delete, Change::DeleteApplication { path }] {
        assert_eq!(refused(&*catalog, change).await, Changed::Missing);
    }
}

/// Only an empty one is.
pub async fn an_application_with_pipelines_is_not_deleted(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), spec(1))).await;
    let delete = Change::DeleteApplication {
        path: application("acme"),
    };
    assert_eq!(refused(&*catalog, delete.clone()).await, Changed::NotEmpty);
    let number = only_pipeline(&*catalog).await.number;
    let path = path("ocr");
    done(&*catalog, Change::DeletePipeline { path, number }).await;
    done(&*catalog, delete).await;
    let snapshot = catalog.snapshot().await.unwrap();
    assert_eq!(
        (snapshot.applications, snapshot.pipelines),
        (vec![], vec![])
    );
}

/// And tells the revision that is there.
pub async fn an_update_under_a_stale_revision_changes_nothing(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), spec(1))).await;
    let update = Change::UpdatePipeline {
        path: path("ocr"),
        expected: Revision(1),
        spec: full_spec(),
    };
    done(&*catalog, update.clone()).await;
    let stale = refused(&*catalog, update).await;
    assert_eq!(stale, Changed::Stale(Revision(2)));
}

/// Everything else of the spec is replaced.
pub async fn an_update_raises_the_revision_and_keeps_number_and_partitions(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), spec(5))).await;
    let before = only_pipeline(&*catalog).await;
    let update = Change::UpdatePipeline {
        path: path("ocr"),
        expected: Revision(1),
        spec: full_spec(),
    };
    done(&*catalog, update).await;
    let mut expected = before;
    expected.revision = Revision(2);
    expected.spec = full_spec();
    expected.spec.n_partitions = 5;
    assert_eq!(only_pipeline(&*catalog).await, expected);
}

/// A pipeline that was created again under the same path is another one.
pub async fn a_delete_with_another_number_deletes_nothing(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), spec(1))).await;
    let delete = Change::DeletePipeline {
        path: path("ocr"),
        number: PipelineNumber(only_pipeline(&*catalog).await.number.0 + 1),
    };
    assert_eq!(refused(&*catalog, delete).await, Changed::Missing);
}

fn set_mode(pipeline: &Pipeline, mode: Mode) -> Change {
    Change::SetMode {
        path: pipeline.path.clone(),
        number: pipeline.number,
        mode,
    }
}

fn paused() -> Mode {
    Mode::Paused {
        by: "ann's \\ bot".to_owned(),
        reason: "the printer 'ä' is out of paper".to_owned(),
        at: at(7),
    }
}

/// Also after a reopening, and the version tells of it.
pub async fn a_mode_is_kept_as_it_was_set(home: At<'_>) {
    let mut catalog = home.open().await;
    let mut seen = done(&*catalog, create(path("ocr"), spec(1))).await;
    let created = only_pipeline(&*catalog).await;
    assert_eq!(created.mode, Mode::Active);
    let modes = [paused(), Mode::Draining, Mode::Active, Mode::Deleting];
    for mode in modes {
        let version = done(&*catalog, set_mode(&created, mode.clone())).await;
        assert!(version > seen);
        seen = version;
        assert_eq!(only_pipeline(&*catalog).await.mode, mode);
        drop(catalog);
        catalog = home.open().await;
        assert_eq!(only_pipeline(&*catalog).await.mode, mode);
    }
}

/// Neither touches the revision or what the other one changes.
pub async fn a_mode_leaves_the_spec_and_an_update_the_mode(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), full_spec())).await;
    let created = only_pipeline(&*catalog).await;
    done(&*catalog, set_mode(&created, paused())).await;
    let mut expected = Pipeline {
        mode: paused(),
        ..created
    };
    assert_eq!(only_pipeline(&*catalog).await, expected);
    let update = Change::UpdatePipeline {
        path: path("ocr"),
        expected: Revision(1),
        spec: spec(3),
    };
    done(&*catalog, update).await;
    expected.revision = Revision(2);
    expected.spec = spec(3);
    assert_eq!(only_pipeline(&*catalog).await, expected);
}

/// And none of a pipeline that is missing.
pub async fn a_mode_of_another_number_changes_nothing(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), spec(1))).await;
    let mut other = only_pipeline(&*catalog).await;
    other.number = PipelineNumber(other.number.0 + 1);
    let change = set_mode(&other, Mode::Deleting);
    assert_eq!(refused(&*catalog, change).await, Changed::Missing);
    other.path = path("scan");
    let change = set_mode(&other, Mode::Deleting);
    assert_eq!(refused(&*catalog, change).await, Changed::Missing);
}

/// It can only be deleted, and its name is taken until then.
pub async fn there_is_no_way_back_from_deleting(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("ocr"), spec(1))).await;
    let created = only_pipeline(&*catalog).await;
    done(&*catalog, set_mode(&created, Mode::Deleting)).await;
    for mode in [Mode::Active, paused(), Mode::Draining, Mode::Deleting] {
        let change = set_mode(&created, mode);
        assert_eq!(refused(&*catalog, change).await, Changed::Deleting);
    }
    let again = refused(&*catalog, create(path("ocr"), spec(1))).await;
    assert_eq!(again, Changed::Exists);
    let (path, number) = (created.path, created.number);
    done(&*catalog, Change::DeletePipeline { path, number }).await;
    assert_eq!(catalog.snapshot().await.unwrap().pipelines, []);
}

/// Also not after a deletion and a reopening.
pub async fn numbers_are_never_given_again(home: At<'_>) {
    let mut given = Vec::new();
    for _ in 0..3 {
        let catalog = home.open().await;
        done(&*catalog, create(path("ocr"), spec(1))).await;
        let number = only_pipeline(&*catalog).await.number;
        assert!(!given.contains(&number), "{number:?} was given before");
        given.push(number);
        let path = path("ocr");
        done(&*catalog, Change::DeletePipeline { path, number }).await;
    }
}

/// The tenant is part of every path.
pub async fn tenants_with_equal_names_are_kept_apart(home: At<'_>) {
    let catalog = home.open().await;
    let other = crate::path("other", "shop", "ocr").unwrap();
    done(&*catalog, create(path("ocr"), spec(1))).await;
    done(&*catalog, create(other.clone(), spec(2))).await;
    let number = only_number(&*catalog, &path("ocr")).await;
    let delete = Change::DeletePipeline {
        path: path("ocr"),
        number,
    };
    done(&*catalog, delete).await;
    assert_eq!(only_pipeline(&*catalog).await.path, other);
    let delete = Change::DeleteApplication {
        path: application("acme"),
    };
    done(&*catalog, delete).await;
}

async fn only_number(catalog: &dyn Catalog, path: &PipelinePath) -> PipelineNumber {
    let pipelines = catalog.snapshot().await.unwrap().pipelines;
    let found = pipelines.into_iter().find(|found| found.path == *path);
    found.unwrap().number
}

/// A refused change leaves it, which every other case checks with it.
pub async fn the_version_grows_with_every_change_and_only_then(home: At<'_>) {
    let catalog = home.open().await;
    let mut seen = catalog.snapshot().await.unwrap().version;
    for name in ["a", "b", "c"] {
        let version = done(&*catalog, create(path(name), spec(1))).await;
        assert!(version > seen);
        assert_eq!(catalog.snapshot().await.unwrap().version, version);
        seen = version;
    }
}

/// And who has not seen the last change need not wait.
pub async fn a_change_wakes_who_waits_for_it(home: At<'_>) {
    let catalog = home.open().await;
    let seen = catalog.snapshot().await.unwrap().version;
    let waiter = catalog.changed(seen);
    let change = done(&*catalog, create(path("ocr"), spec(1)));
    let both = async { tokio::join!(waiter, change) };
    let (woken, version) = tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .unwrap();
    assert!(woken.unwrap() > seen);
    assert!(catalog.changed(seen).await.unwrap() >= version);
}

/// All but one find it there.
pub async fn concurrent_creations_of_one_pipeline_make_one(home: At<'_>) {
    let catalog = home.open().await;
    let creations: Vec<_> = (0..8)
        .map(|_| {
            let catalog = Arc::clone(&catalog);
            tokio::spawn(async move { catalog.change(create(path("ocr"), spec(1))).await })
        })
        .collect();
    let mut n_done = 0;
    for creation in creations {
        match creation.await.unwrap().unwrap() {
            Changed::Done(_) => n_done += 1,
            other => assert_eq!(other, Changed::Exists),
        }
    }
    assert_eq!(n_done, 1);
    only_pipeline(&*catalog).await;
}

/// Applications, pipelines, revisions and the version.
pub async fn a_reopened_catalogue_has_kept_everything(home: At<'_>) {
    let catalog = home.open().await;
    done(&*catalog, create(path("a"), full_spec())).await;
    done(&*catalog, create(path("b"), spec(1))).await;
    let update = Change::UpdatePipeline {
        path: path("b"),
        expected: Revision(1),
        spec: full_spec(),
    };
    done(&*catalog, update).await;
    let before = catalog.snapshot().await.unwrap();
    drop(catalog);
    let catalog = home.open().await;
    assert_eq!(catalog.snapshot().await.unwrap(), before);
    let version = done(&*catalog, create(path("c"), spec(1))).await;
    assert!(version > before.version);
}
