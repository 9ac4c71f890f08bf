//! `ClusterService` over the scheduler.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    pb::{self, cluster_service_server::ClusterService},
    status::to_status,
};

/// Answers `ClusterService`.
#[derive(Debug, Clone)]
pub(super) struct ClusterServer(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl ClusterService for ClusterServer {
    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        // Any tenant may ask, but nobody who is none.
        self.0.access.tenant(request.metadata())?;
        let members = self.0.scheduler.members().await;
        let members = members.map_err(|err| to_status(&err))?.into_iter();
        let members = members.map(Into::into).collect();
        Ok(Response::new(pb::ListMembersResponse { members }))
    }
}
