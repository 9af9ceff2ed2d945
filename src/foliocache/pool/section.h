/* Critical sections, where there is no GIL: what a process keeps for itself of one pool is used by one thread at a time, which has
 * the lock of the pool's Attachment. The interpreter releases the lock while the thread waits or runs without the interpreter, as it
 * does with the GIL, so it cannot deadlock. What runs no Python and does not wait for the interpreter takes a turn instead (mm/turn.py),
 * which costs half as much; a section of an Attachment excludes turns. With the GIL, all of this is nothing. */
#ifndef FC_SECTION_H
#define FC_SECTION_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

/* The first member of an Attachment: its turn, and the functions of mm/turn.py, which a header cannot import. */
typedef struct {
    uintptr_t mem;
    void (*exclude)(uintptr_t mem, uint64_t turn);
    void (*readmit)(uintptr_t mem, uint64_t turn);
} fc_turn;

/* After the object's head and the pointer to its methods; Attachment.__cinit__ asserts it. */
#define FC_TURN_AT (sizeof(PyObject) + sizeof(void *))

static inline fc_turn *fc_turn_of(PyObject *attachment)
{
    return (fc_turn *)((char *)attachment + FC_TURN_AT);
}

#ifdef Py_GIL_DISABLED
typedef PyCriticalSection fc_section;

static inline int fc_has_turn(PyObject *object)
{
    return strcmp(Py_TYPE(object)->tp_name, "foliocache.pool.attachment.Attachment") == 0;
}

/* True if the innermost critical section of this thread is of this object. CPython 3.13 does not look, and would have the thread
 * wait for itself, which takes 0.4 ms; 3.14 does. */
static inline int fc_is_inside(PyObject *object)
{
    uintptr_t section = PyThreadState_GetUnchecked()->critical_section;
    return section != 0 && (section & 3) == 0 && ((PyCriticalSection *)section)->_cs_mutex == &object->ob_mutex;
}

static inline void fc_enter(fc_section *section, PyObject *object)
{
    if (__atomic_load_n(&object->ob_mutex._bits, __ATOMIC_RELAXED) != 0 && fc_is_inside(object)) {
        section->_cs_mutex = NULL;
        return;
    }
    PyCriticalSection_Begin(section, object);
    if (fc_has_turn(object))
        fc_turn_of(object)->exclude(fc_turn_of(object)->mem, 0);
}

static inline void fc_leave(fc_section *section)
{
    if (section->_cs_mutex == NULL)
        return;
    PyObject *object = (PyObject *)((char *)section->_cs_mutex - offsetof(PyObject, ob_mutex));
    if (fc_has_turn(object))
        fc_turn_of(object)->readmit(fc_turn_of(object)->mem, 0);
    PyCriticalSection_End(section);
}

/* For Cython's own critical sections in a module that includes this file. */
#define PyCriticalSection_Begin(section, object) fc_enter(section, object)
#define PyCriticalSection_End(section) fc_leave(section)

#define FC_FREE_THREADED 1
#else
typedef struct { char none; } fc_section;
static inline void fc_enter(fc_section *section, PyObject *object) { (void)section; (void)object; }
static inline void fc_leave(fc_section *section) { (void)section; }
#define FC_FREE_THREADED 0
#endif

#endif
