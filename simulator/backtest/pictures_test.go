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
		"no file that can be read":          {map[string]string{"images/a/0.png": "\x89PNG\r\n\x1a\nnothing", "labels.csv": "file,label\na/0.png,x\n", "splits.csv": "file,s\na/0.png,train\n"}, nil, "a/0.png cannot be read"},
		"pictures of other formats":         {map[string]string{"images/a.bmp": "BM", "labels.csv": "file,label\n", "splits.csv": "file,s\n"}, nil, "1 of other formats, as a.bmp: convert them to PNG"},
		"a label twice":                     {two("labels.csv", labels+"a/0.png,y\n"), nil, "labels a/0.png twice, in lines 2 and 6"},
		"a file twice in the splits":        {two("splits.csv", splits+"a/0.png,test\n"), nil, "has a/0.png twice, in lines 2 and 6"},
		"a file in no split":                {two("splits.csv", strings.Replace(splits, "images/b/1.png,test\n", "", 1)), nil, "b/1.png is in no split"},
		"neither train nor test":            {two("splits.csv", strings.Replace(splits, "b/1.png,test", "b/1.png,maybe", 1)), nil, `is "maybe" in s: want train or test`},
		"nothing to judge":                  {two("splits.csv", strings.ReplaceAll(splits, "test", "train")), nil, "no image of images is to judge"},
		"no column label":                   {two("labels.csv", "file,who,when\na/0.png,x,y\n"), nil, "has no column label"},
		"no column file":                    {two("splits.csv", "what,s\na/0.png,train\n"), nil, "has no column file"},
		"no column of splits":               {two("splits.csv", "file\na/0.png\n"), nil, "has no column beside file"},
		"a split that is not there":         {two(), []string{"t"}, `--split "t"`},
		"a row with too many cells":         {two("splits.csv", splits+"a/0.png,test,test\n"), nil, "wrong number of fields"},
		"the same class from two folders":   {two(), []string{"again"}, "would both be device class images"},
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

func TestWhatIsLeftOutOfAnAlbumIsTold(t *testing.T) {
	for name, tc := range map[string]struct {
		files          map[string]string
		labels, splits string
		broken         int
		train, test    string
		notes          string // all of these, with bars between
	}{
		"pictures that cannot be read": {
			with(some(4, "images/a"), "images/a/1.png", "", "images/a/2.png", "\x89PNG\r\n\x1a\nnothing"), "", "", 2, "a/0.png=a", "a/3.png=a",
			"a/1.png cannot be read|2 of 4 images cannot be read and are left out",
		},
		"masks and other formats beside good parts": {
			with(some(1, "images/train/good", "images/test/good", "images/test/crack", "images/ground_truth/crack"), "images/test/crack/0.tif", "II*"), "", "", 0,
			"train/good/0.png=good", "test/crack/0.png=crack test/good/0.png=good", "1 images in folders called ground_truth or masks|1 files that are neither JPEG nor PNG, as 0.tif",
		},
		"folders to validate": {
			some(1, "images/train/a", "images/train/b", "images/valid/a", "images/test/a"), "", "", 0, "train/a/0.png=a train/b/0.png=b", "test/a/0.png=a", "1 images to validate are left out",
		},
		"folders to validate, and none to test": {
			some(1, "images/train/a", "images/val/a"), "", "", 0, "train/a/0.png=a", "val/a/0.png=a", "has none to test: the 1 images to validate are judged",
		},
		"labels never seen in training": {
			some(1, "images/train/a", "images/train/b", "images/test/a", "images/test/c"), "", "", 0, "train/a/0.png=a train/b/0.png=b", "test/a/0.png=a test/c/0.png=c",
			`1 images labelled "c" to judge and none to learn from: they count as named wrong`,
		},
		"tables with other names, a part to validate and one that says nothing": {
			with(some(5, "images/x"), "labels.csv", "Filename;Class\nx/0.png;p\nx/1.png;q\nx/2.png;p\nx/3.png;q\n", "splits.csv", "image,fold\nx/0.png,train\nx/1.png,train\nx/2.png,test\nx/3.png,val\nx/4.png,\n"),
			"labels.csv", "splits.csv", 0, "x/0.png=p x/1.png=q", "x/2.png=p", "1 images have no label|1 images are in neither part of split fold|1 images to validate are left out",
		},
		"tables without names": {
			with(some(2, "images/x"), "labels.csv", "x/0.png,p\nx/1.png,p\n", "splits.csv", "x/0.png,train\nx/1.png,test\n"), "labels.csv", "splits.csv", 0, "x/0.png=p", "x/1.png=p", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := put(t, tc.files)
			o := ImageOptions{Images: []string{filepath.Join(dir, "images")}, TrainShare: 0.5}
			if tc.labels != "" {
				o.Labels, o.Splits = filepath.Join(dir, tc.labels), filepath.Join(dir, tc.splits)
			}
			a, err := openAlbum(o)
			if err != nil {
				t.Fatal(err)
			}
			d := a.divisions[0]
			if train, test := names(a, d.train), names(a, d.test); train != tc.train || test != tc.test || a.broken != tc.broken {
				t.Errorf("to learn from: %s\nto judge: %s\n%d broken", train, test, a.broken)
			}
			said := strings.Join(a.notes, "\n")
			for _, want := range strings.Split(tc.notes, "|") {
				if !strings.Contains(said, want) || tc.notes == "" && said != "" {
					t.Errorf("%q is not in\n%s", want, said)
				}
			}
		})
	}
}
