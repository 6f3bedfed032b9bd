package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/cloud/hub"
)

// TestTheWorkersJobIsBoundAndUnprivileged holds the manifest to what a job of
// its kind must say; no cluster is asked.
func TestTheWorkersJobIsBoundAndUnprivileged(t *testing.T) {
	var job struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Spec       struct {
			ActiveDeadlineSeconds   int    `yaml:"activeDeadlineSeconds"`
			BackoffLimit            int    `yaml:"backoffLimit"`
			CompletionMode          string `yaml:"completionMode"`
			TTLSecondsAfterFinished int    `yaml:"ttlSecondsAfterFinished"`
			Template                struct {
				Spec struct {
					RestartPolicy   string `yaml:"restartPolicy"`
					SecurityContext struct {
						RunAsNonRoot bool `yaml:"runAsNonRoot"`
					} `yaml:"securityContext"`
					Containers []struct {
						Image     string
						Args      []string
						Resources struct {
							Requests, Limits map[string]string
						}
						SecurityContext struct {
							AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
							ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
						} `yaml:"securityContext"`
						VolumeMounts []struct{ Name string } `yaml:"volumeMounts"`
					}
					Volumes []struct{ Name string }
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "kubernetes/trainer-job.yaml")), &job); err != nil {
		t.Fatal(err)
	}
	s, pod := job.Spec, job.Spec.Template.Spec
	if job.APIVersion != "batch/v1" || job.Kind != "Job" || s.ActiveDeadlineSeconds == 0 || s.BackoffLimit == 0 || s.TTLSecondsAfterFinished == 0 || s.CompletionMode != "Indexed" || pod.RestartPolicy != "OnFailure" {
		t.Errorf("job %+v", job)
	}
	c := pod.Containers[0]
	if !pod.SecurityContext.RunAsNonRoot || c.SecurityContext.AllowPrivilegeEscalation == nil || *c.SecurityContext.AllowPrivilegeEscalation || !c.SecurityContext.ReadOnlyRootFilesystem {
		t.Errorf("security %+v %+v", pod.SecurityContext, c.SecurityContext)
	}
	if c.Resources.Limits["memory"] == "" || c.Resources.Limits["cpu"] == "" || c.Resources.Requests["memory"] == "" {
		t.Errorf("resources %+v", c.Resources)
	}
	if strings.HasSuffix(c.Image, ":latest") || !strings.Contains(c.Image, ":") {
		t.Errorf("image %s is not pinned", c.Image)
	}
	if i := slices.Index(c.Args, "-role"); i < 0 || c.Args[i+1] != string(hub.RoleWorker) {
		t.Errorf("args %v", c.Args)
	}
	for _, m := range c.VolumeMounts {
		if !slices.ContainsFunc(pod.Volumes, func(v struct{ Name string }) bool { return v.Name == m.Name }) {
			t.Errorf("volume %s is not there", m.Name)
		}
	}
}
