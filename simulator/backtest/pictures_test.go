package backtest

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// stripes makes a picture of stripes, with noise so that no two are equal.
func stripes(across bool, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	m := image.NewGray(image.Rect(0, 0, 24, 24))
	shift := r.IntN(8)
	for y := range 24 {
		for x := range 24 {
			at := y
			if across {
				at = x
			}
			m.SetGray(x, y, color.Gray{uint8((at+shift)/4%2*150 + 30 + r.IntN(40))})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// put writes files below a new folder.
func put(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// some makes files of pictures: n in each of the folders.
func some(n int, folders ...string) map[string]string {
	out := map[string]string{}
	for f, folder := range folders {
		for i := range n {
			out[fmt.Sprintf("%s/%d.png", folder, i)] = string(stripes(f%2 == 0, uint64(100*f+i)))
		}
	}
	return out
}

// with adds files to others.
func with(files map[string]string, more ...string) map[string]string {
	for i := 0; i < len(more); i += 2 {
		files[more[i]] = more[i+1]
	}
	return files
}

func names(a album, of []int) string {
	var out []string
	for _, i := range of {
		out = append(out, a.pictures[i].name+"="+a.pictures[i].label)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestAnAlbumIsDividedByTablesFoldersOrShare(t *testing.T) {
	for name, tc := range map[string]struct {
		files       map[string]string
		labels      string
		splits      string
		split       []string
		divisions   int
		train, test string // of the last
	}{
		"tables, by paths from the table": {
			with(some(2, "images/a", "images/b"), "labels.csv", "file,label\nimages/a/0.png,x\nimages/a/1.png,y\nimages/b/0.png,x\nimages/b/1.png,y\n",
				"splits.csv", "file,one,two\nimages/a/0.png,train,test\nimages/a/1.png,train,test\nimages/b/0.png,test,train\nimages/b/1.png,test,train\n"),
			"labels.csv", "splits.csv", nil, 2, "b/0.png=x b/1.png=y", "a/0.png=x a/1.png=y",
		},
		"tables, by paths from the folder, with semicolons and a mark of order": {
			with(some(2, "images/a", "images/b"), "splits.csv", "\ufeffone;file\r\ntrain;a/0.png\r\ntest;a/1.png\r\nTrain;b/0.png\r\ntest;b/1.png\r\n"),
			"", "splits.csv", nil, 1, "a/0.png=a b/0.png=b", "a/1.png=a b/1.png=b",
		},
		"one split of two": {
			with(some(2, "images/a", "images/b"), "splits.csv", "file,one,two\na/0.png,train,test\na/1.png,test,train\nb/0.png,train,test\nb/1.png,test,train\n"),
			"", "splits.csv", []string{"one"}, 1, "a/0.png=a b/0.png=b", "a/1.png=a b/1.png=b",
		},
		"folders called train and test, good parts only": {
			some(1, "images/train/good", "images/test/good", "images/test/crack"),
			"", "", nil, 1, "train/good/0.png=good", "test/crack/0.png=crack test/good/0.png=good",
		},
		"folders called train and test that name no label": {
			some(1, "images/Train", "images/Test"), "", "", nil, 1, "Train/0.png=", "Test/0.png=",
		},
		"half of each label": {
			some(4, "images/a"), "", "", nil, 1, "a/0.png=a a/2.png=a", "a/1.png=a a/3.png=a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := put(t, tc.files)
			o := ImageOptions{Images: []string{filepath.Join(dir, "images")}, Split: tc.split, TrainShare: 0.5}
			if tc.labels != "" {
				o.Labels = filepath.Join(dir, tc.labels)
			}
			if tc.splits != "" {
				o.Splits = filepath.Join(dir, tc.splits)
			}
			a, err := openAlbum(o)
			if err != nil {
				t.Fatal(err)
			}
			if len(a.divisions) != tc.divisions {
				t.Fatalf("%d splits, want %d", len(a.divisions), tc.divisions)
			}
			d := a.divisions[len(a.divisions)-1]
			if got := names(a, d.train); got != tc.train {
				t.Errorf("to learn from: %s\nwant %s", got, tc.train)
			}
			if got := names(a, d.test); got != tc.test {
				t.Errorf("to judge: %s\nwant %s", got, tc.test)
			}
		})
	}
}

func TestSeveralFoldersAreSeveralDeviceClasses(t *testing.T) {
	dir := put(t, some(4, "Top Camera/a", "Top Camera/b", "side/a", "side/b"))
	a, err := openAlbum(ImageOptions{Images: []string{filepath.Join(dir, "Top Camera"), filepath.Join(dir, "side")}, TrainShare: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(a.classes()); got != "[top-camera side]" {
		t.Errorf("classes %s", got)
	}
	if got := a.pictures[0].name; got != "Top Camera/a/0.png" {
		t.Errorf("the first is %s", got)
	}
}

func TestAnAlbumThatMeansNothingIsRefused(t *testing.T) {
	labels, splits := "file,label\nimages/a/0.png,x\nimages/a/1.png,x\nimages/b/0.png,y\nimages/b/1.png,y\n", "file,s\nimages/a/0.png,train\nimages/a/1.png,test\nimages/b/0.png,train\nimages/b/1.png,test\n"
	two := func(more ...string) map[string]string {
		return with(with(some(2, "images/a", "images/b"), "labels.csv", labels, "splits.csv", splits), more...)
	}
	for name, tc := range map[string]struct {
		files map[string]string
		split []string
		want  string
	}{
		"no image":                          {map[string]string{"images/readme.txt": "x", "labels.csv": "file,label\n", "splits.csv": "file,s\n"}, nil, "no JPEG or PNG file"},
		"a file that is missing":            {two("labels.csv", labels+"images/a/7.png,x\n"), nil, "images/a/7.png, which is no image in"},
		"a split of a file that is missing": {two("splits.csv", splits+"images/a/7.png,test\n"), nil, "line 6: "},
		"a file that cannot be read":        {two("images/b/1.png", "\x89PNG\r\n\x1a\nnothing"), nil, "b/1.png cannot be read"},
		"an empty file":                     {two("images/b/1.png", ""), nil, "b/1.png cannot be read"},
		"a label twice":                     {two("labels.csv", labels+"a/0.png,y\n"), nil, "labels a/0.png twice, in lines 2 and 6"},
		"a file twice in the splits":        {two("splits.csv", splits+"a/0.png,test\n"), nil, "has a/0.png twice, in lines 2 and 6"},
		"a file in no split":                {two("splits.csv", strings.Replace(splits, "images/b/1.png,test\n", "", 1)), nil, "b/1.png is in no split"},
		"neither train nor test":            {two("splits.csv", strings.Replace(splits, "b/1.png,test", "b/1.png,maybe", 1)), nil, `is "maybe" in s: want train or test`},
		"a class without images to learn from": {
			two("splits.csv", strings.Replace(splits, "b/0.png,train", "b/0.png,test", 1), "images/c/0.png", string(stripes(true, 5)), "labels.csv", labels+"c/0.png,z\n",
				"splits.csv", strings.Replace(splits, "b/0.png,train", "b/0.png,test", 1)+"c/0.png,train\n"), nil, `2 images labelled "y" to judge and none to learn from`},
		"nothing to judge":                {two("splits.csv", strings.ReplaceAll(splits, "test", "train")), nil, "no image of images is to judge"},
		"no column label":                 {two("labels.csv", "file,class\na/0.png,x\n"), nil, "has no column label"},
		"no column file":                  {two("splits.csv", "name,s\na/0.png,train\n"), nil, "has no column file"},
		"no column of splits":             {two("splits.csv", "file\na/0.png\n"), nil, "has no column beside file"},
		"a split that is not there":       {two(), []string{"t"}, `--split "t"`},
		"a row with too many cells":       {two("splits.csv", splits+"a/0.png,test,test\n"), nil, "wrong number of fields"},
		"the same class from two folders": {two(), []string{"again"}, "would both be device class images"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := put(t, tc.files)
			o := ImageOptions{Images: []string{filepath.Join(dir, "images")}, Labels: filepath.Join(dir, "labels.csv"), Splits: filepath.Join(dir, "splits.csv"), Split: tc.split, TrainShare: 0.5}
			if slices.Contains(tc.split, "again") {
				o.Images = append(o.Images, o.Images[0])
			}
			_, err := openAlbum(o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}
